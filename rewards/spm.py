"""SPM, the step-aware preference model of SPO: PickScore whose image tower is told the time (arXiv 2406.04314).

    x <- x + gate_1 Attention( LN(x) (1 + scale_1) + shift_1 ),    x <- x + gate_2 MLP( LN(x) (1 + scale_2) + shift_2 )

with shifts, scales and gates linear in SiLU(e_t) in every layer, and shift and scale once more after the last norm. The
published file is the state of the whole model, under the names that the released code (RockeyCoss/SPO) gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from rewards.clip_reward import ClipReward
from rewards.preprocessing import normalise
from rewards.step_aware import StepAware

_FILE, _FREQUENCIES = "step_aware_preference_model.bin", 256


class Spm(StepAware, ClipReward):
    """exp(logit scale) times the cosine of prompt and predicted image at a time; differences are logits.

    Args:
        checkpoint: The published file, such as `sd-v1-5_step-aware_preference_model.bin`, or a folder that
            `rewards.fit_steps` has written. Without one it is PickScore, which takes no notice of the time.
        model: Folder or hub name of PickScore.
        options: `batch_size`, `device` and `dtype`, as in `ClipReward`.

    Raises:
        ValueError: If the file is not of that model, or cannot be read.
        FileNotFoundError: If there is none.
    """

    parameters = 986_109_441 + 32 * 6 * 1280 * 1281 + 2 * 1280 * 1281 + 1280 * (_FREQUENCIES + 1) + 1280 * 1281

    def __init__(
        self, checkpoint: str | Path | None = None, model: str = "yuvalkirstain/PickScore_v1", **options: Any
    ) -> None:
        super().__init__(model, **options)
        self.network = self.clip
        _add_time(self.clip)
        if checkpoint is not None:
            _load(self.clip, Path(checkpoint))
        self.clip.to(self.device, self.clip.dtype).eval().requires_grad_(False)

    def score_at(self, images: Tensor, prompts: Sequence[str], times: Tensor) -> Tensor:
        scores = []
        for start in range(0, len(images), self._batch_size):
            part = slice(start, start + self._batch_size)
            seen = self.image_features(images[part], times[part])
            scores.append((seen * self.text_features(prompts[part])).sum(dim=-1))
        return (self.clip.logit_scale.float().exp() * torch.cat(scores)).to(images.device)

    def score_chunk(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.score(images, prompts)

    def image_features(self, images: Tensor, times: Tensor | None = None) -> Tensor:
        """Unit vectors `(B, D)` float32 of images `(B, 3, H, W)` in [0, 1], at times `(B,)`; without any, at 0."""
        vision, times = self.clip.vision_model, torch.zeros(len(images)) if times is None else times
        pixels = normalise(_resized(images.to(self.device), self.clip.config.vision_config.image_size))
        embedded = get_timestep_embedding(
            times.to(self.device), _FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        e = self.clip.t_embedder["mlp"](embedded.to(self.clip.dtype))
        x = vision.pre_layrnorm(vision.embeddings(pixels.to(self.clip.dtype)))
        for layer in vision.encoder.layers:
            shift, scale, gate, *of_mlp = layer.adaLN_modulation(e)[:, None].chunk(6, dim=2)
            x = x + gate * layer.self_attn(layer.layer_norm1(x) * (1 + scale) + shift)[0]
            shift, scale, gate = of_mlp
            x = x + gate * layer.mlp(layer.layer_norm2(x) * (1 + scale) + shift)
        shift, scale = vision.adaLN_modulation(e).chunk(2, dim=1)
        pooled = vision.post_layernorm(x[:, 0]) * (1 + scale) + shift
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({f"model.{name}": value for name, value in self.clip.state_dict().items()}, folder / _FILE)


def _resized(images: Tensor, size: int) -> Tensor:
    """As the released code does: the short side by bicubic interpolation without antialiasing, the centre, clamped."""
    height, width = images.shape[2:]
    scale = size / min(height, width)
    new = int(height * scale + 0.5), int(width * scale + 0.5)
    resized = F.interpolate(images, new, mode="bicubic", align_corners=False)
    top, left = round((new[0] - size) / 2), round((new[1] - size) / 2)
    return resized[..., top : top + size, left : left + size].clamp(0, 1)


def _add_time(clip: Any) -> None:
    """Give a CLIP the layers that it is told the time by; they change nothing yet."""
    vision, width = clip.vision_model, clip.config.vision_config.hidden_size
    clip.t_embedder = nn.ModuleDict(
        {"mlp": nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))}
    )
    for module, count in [(layer, 6) for layer in vision.encoder.layers] + [(vision, 2)]:
        module.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, count * width))
        last = module.adaLN_modulation[1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if count == 6:  # gates
            for gate in (2, 5):
                nn.init.ones_(last.bias[gate * width : (gate + 1) * width])


def _load(clip: Any, path: Path) -> None:
    file = path / _FILE if path.is_dir() else path
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        # Old checkpoints store the constant position_ids.
        named = {name.removeprefix("model."): v for name, v in state.items() if not name.endswith("position_ids")}
        clip.load_state_dict(named)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no step-aware preference model {file} (options.checkpoint).") from error
    except (RuntimeError, UnpicklingError, EOFError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{file} (options.checkpoint) is no step-aware preference model of this CLIP: {reason}"
        ) from error
