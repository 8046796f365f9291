"""ImageReward (Xu et al., arXiv 2304.05977) through its own package, `image-reward`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor

from rewards.chunked import ChunkedReward
from rewards.foreign import import_torchvision, load_weights, placeholder
from rewards.preprocessing import normalise, short_side_crop

HUB = "THUDM/ImageReward"
TOKENS = 35  # what the model was trained with; a longer prompt is cut


def import_package() -> None:
    """Import `ImageReward` without its trainer, its baselines and activation checkpointing.

    None of them is used here, and each needs more packages; the trainer's would have to suit the driver's diffusers.
    """
    import_torchvision()
    placeholder("ImageReward.ReFL")
    placeholder("clip")
    placeholder("fairscale.nn.checkpoint.checkpoint_activations", checkpoint_wrapper=None)
    import_module("ImageReward")


class ImageReward(ChunkedReward):
    """A BLIP that was fitted to comparisons of generated pictures; about standard normal over those of its paper.

    Short side to 224 pixels, centre cut out, 35 tokens of the prompt.

    Args:
        checkpoint: The published `ImageReward.pt`; null takes it from the hub.
        med_config: The published `med_config.json`, of the text encoder; null takes it from the hub.
        tokenizer: Folder or hub name of the BERT tokenizer.
        batch_size: Images that go through the model at once.
        device: Such as `cpu` or `cuda`; `auto` takes a GPU if there is one.

    Raises:
        ValueError: If the checkpoint does not fit; the package itself would keep random weights in silence.
    """

    parameters = 447_000_000

    differentiable = True
    environment = "image_reward"

    def __init__(
        self,
        checkpoint: str | None = None,
        med_config: str | None = None,
        tokenizer: str = "bert-base-uncased",
        batch_size: int = 16,
        device: str = "auto",
    ) -> None:
        super().__init__(batch_size, device)
        import_package()
        from huggingface_hub import hf_hub_download
        from ImageReward.ImageReward import ImageReward as Model
        from ImageReward.models.BLIP import blip_pretrain
        from transformers import BertTokenizer

        words = BertTokenizer.from_pretrained(tokenizer)
        blip_pretrain.init_tokenizer = lambda: words  # the package knows no other than the hub's
        path = checkpoint or hf_hub_download(HUB, "ImageReward.pt")
        self._model = Model(med_config or hf_hub_download(HUB, "med_config.json"), self.device)
        weights = torch.load(path, map_location="cpu", weights_only=True)
        load_weights(self._model, weights, path, unused=("blip.vision_proj.", "blip.text_proj."))
        self._model.to(self.device).eval().requires_grad_(False)

    def score_chunk(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        text = self._model.blip.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self.device)
        pixels = normalise(short_side_crop(images, 224, rounding=round))
        return self._model.score_gard(text.input_ids, text.attention_mask, pixels).squeeze(1)
