"""HPSv2 (Wu et al., arXiv 2306.09341) through its own package, `hpsv2`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Literal

import torch
from torch import Tensor

from rewards.chunked import ChunkedReward
from rewards.foreign import import_torchvision, load_weights, placeholder
from rewards.preprocessing import long_side_pad, normalise

HUB = "xswu/HPSv2"
FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}


def import_package() -> None:
    """Import `hpsv2` without the progress bars of its own downloads, which are not used here."""
    import_torchvision()
    placeholder("clint.textui", progress=None)
    import_module("hpsv2")


class HPSv2(ChunkedReward):
    """Cosine between image and prompt in a CLIP that was fitted to human choices; about 0.2 to 0.35.

    Scores of the two versions cannot be compared, nor those of different prompts. Long side to 224 pixels, padded with
    black, 77 tokens of the prompt.

    Args:
        version: Which of the published checkpoints.
        checkpoint: Path of the checkpoint; null takes it from the hub.
        batch_size: Images that go through the model at once.
        device: Such as `cpu` or `cuda`; `auto` takes a GPU if there is one.

    Raises:
        ValueError: If there is no such version, or the checkpoint does not fit.
    """

    parameters = 986_109_441

    differentiable = True
    environment = "hpsv2"

    def __init__(
        self,
        version: Literal["v2.0", "v2.1"] = "v2.1",
        checkpoint: str | None = None,
        batch_size: int = 16,
        device: str = "auto",
    ) -> None:
        super().__init__(batch_size, device)
        if version not in FILES:
            raise ValueError(f"There is no HPSv2 {version!r}; the versions are {', '.join(FILES)}.")
        import_package()
        from hpsv2.src.open_clip import create_model, get_tokenizer
        from huggingface_hub import hf_hub_download

        path = checkpoint or hf_hub_download(HUB, FILES[version])
        self._tokenize = get_tokenizer("ViT-H-14")
        self._model = create_model("ViT-H-14", output_dict=True)
        weights = torch.load(path, map_location="cpu", weights_only=True)
        if "state_dict" not in weights:
            raise ValueError(f"The checkpoint {path} has no 'state_dict', so it is not one of HPSv2.")
        load_weights(self._model, weights["state_dict"], path)
        self._model.to(self.device).eval().requires_grad_(False)

    def score_chunk(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        text = self._model.encode_text(self._tokenize(list(prompts)).to(self.device), normalize=True)
        return (self._features(images) * text).sum(dim=1)

    def embed(self, images: Tensor) -> Tensor:
        parts = images.split(self._batch_size)
        return torch.cat([self._features(part.to(self.device)) for part in parts]).float().to(images.device)

    def _features(self, images: Tensor) -> Tensor:
        return self._model.encode_image(
            normalise(long_side_pad(images, self._model.visual.image_size[0])), normalize=True
        )
