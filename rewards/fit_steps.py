"""Trains a step-aware preference model on choices between pictures, and says how well it does at each level of noise.

    python -m rewards.fit_steps DATASET --out FOLDER
    python -m rewards.fit_steps DATASET                   says how well the shipped one does; nothing is trained

Both pictures of a choice are encoded, noised to the same state with the same noise, and shown to the model as the
images that Stable Diffusion's guided prediction makes of them,

    L = -y log sigmoid(s_0 - s_1) - (1 - y) log sigmoid(s_1 - s_0) + 1[y = 1/2] log(1/2),   s = s(x0_hat(x_t), c, t)

with t even over the training timesteps; of a tie the least loss is 0. DATASET has the columns of Pick-a-Pic: a folder
with the splits `train` and `validation`, such as `python -m rewards.people.shapes_pairs` writes. The accuracy is of
pairs of the second split that are no ties, of what was trained beside that of the model as it began.

Source: Liang et al., "Aesthetic Post-Training Diffusion Models from Generic Preferences with Step-by-step Preference
Optimization" (arXiv 2406.04314). It weighs choices by how many its prompt has, which is left out.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from rewards import make_reward
from rewards.errors import RewardFailed, RewardUnavailable, UnknownReward
from rewards.fit import Choice, option, read
from rewards.options import check_options
from rewards.people.pick_a_pic import TIE
from rewards.reward import to_images
from rewards.step_aware import StepAware
from shapes import PIPELINES
from shapes.arguments import Parser, one_line, positive, positive_number

TIMES = (1, 100, 200, 300, 400, 500, 600, 700, 800, 900, 980)  # of the curve


class Predictor:
    """What Stable Diffusion takes noised pictures for.

    Args:
        model: Name of an embedded world's, or folder or hub name of another, in diffusers' format.
        guidance: Of its predictions.
    """

    def __init__(self, model: str, guidance: float) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        pipeline = StableDiffusionPipeline.from_pretrained(PIPELINES.get(model, model), safety_checker=None)
        self._pipeline, self._guidance = pipeline.to(self.device), guidance
        self._pipeline.set_progress_bar_config(disable=True)
        self._size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        if pipeline.scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"{model} predicts neither noise nor velocity, and is no Stable Diffusion")

    @property
    def timesteps(self) -> int:
        """How many it was trained with."""
        return self._pipeline.scheduler.config.num_train_timesteps

    @torch.no_grad()
    def __call__(self, choices: Sequence[Choice], times: Tensor, generator: torch.Generator) -> Tensor:
        """Predicted images `(n, 2, 3, H, W)` in [0, 1] of both pictures of choices.

        Args:
            choices: n of them.
            times: `(n,)` int64, how far each pair is noised.
            generator: Of the noise, on the CPU; a pair shares its own.
        """
        images = to_images(np.stack([self._fitted(picture) for c in choices for picture in c.pixels]))
        vae, scheduler = self._pipeline.vae, self._pipeline.scheduler
        clean = vae.encode(2 * images.to(self.device) - 1).latent_dist.mode() * vae.config.scaling_factor
        noise = torch.randn(len(choices), *clean.shape[1:], generator=generator).repeat_interleave(2, dim=0)
        at = times.repeat_interleave(2).to(self.device)
        noisy = scheduler.add_noise(clean, noise.to(self.device), at)
        told = self._pipeline.encode_prompt(["", *(c.prompt for c in choices)], self.device, 1, False)[0]
        both = torch.cat([told[:1].expand(len(noisy), -1, -1), told[1:].repeat_interleave(2, dim=0)])
        output = self._pipeline.unet(noisy.repeat(2, 1, 1, 1), at.repeat(2), both).sample
        unconditional, conditional = output.chunk(2)
        guided = unconditional + self._guidance * (conditional - unconditional)
        alpha = scheduler.alphas_cumprod.to(self.device)[at][:, None, None, None]
        if scheduler.config.prediction_type == "epsilon":
            predicted = (noisy - (1 - alpha).sqrt() * guided) / alpha.sqrt()
        else:
            predicted = alpha.sqrt() * noisy - (1 - alpha).sqrt() * guided
        decoded = vae.decode(predicted / vae.config.scaling_factor).sample
        return (decoded / 2 + 0.5).clamp(0, 1).unflatten(0, (-1, 2))

    def _fitted(self, picture: np.ndarray) -> np.ndarray:
        return np.asarray(ImageOps.fit(Image.fromarray(picture), (self._size, self._size), Image.Resampling.BICUBIC))


def preference_loss(first: Tensor, second: Tensor, label: Tensor) -> Tensor:
    """The loss of the head of this file, mean over pairs.

    Args:
        first, second: `(n,)` scores of both pictures.
        label: `(n,)`, 1 where the first was chosen, 0.5 of a tie.
    """
    gap = first - second
    losses = label * F.softplus(-gap) + (1 - label) * F.softplus(gap)
    return (losses + torch.where(label == TIE, -np.log(2.0), 0.0)).mean()


def judge(reward: StepAware, images: Tensor, choices: Sequence[Choice], times: Tensor) -> tuple[Tensor, Tensor]:
    """Scores `(n,)` of the first and the second picture of choices, as `Predictor` predicts them."""
    prompts = [c.prompt for c in choices for _ in range(2)]
    scores = reward.score_at(images.flatten(0, 1), prompts, times.repeat_interleave(2).float())
    first, second = scores.unflatten(0, (-1, 2)).unbind(1)
    return first, second


def fit(
    reward: StepAware,
    predictor: Predictor,
    batches: Iterator[Sequence[Choice]],
    *,
    steps: int,
    lr: float,
    weight_decay: float,
    warmup: int,
    seed: int,
) -> None:
    """Train a model in place.

    Args:
        reward: The model.
        predictor: Makes what it is shown.
        batches: Of choices, one an optimizer step; the training ends with the last, at the latest after `steps`.
        steps: Over which the rate falls to 0.
        lr: Of AdamW, after the warm-up.
        weight_decay: Of AdamW.
        warmup: Steps in which the rate rises from 0.
        seed: Of times and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = list(reward.network.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    for choices in (bar := tqdm(islice(batches, steps), total=steps, desc="training")):
        times = torch.randint(predictor.timesteps, (len(choices),), generator=generator)
        first, second = judge(reward, predictor(choices, times, generator), choices, times)
        loss = preference_loss(first, second, torch.tensor([c.label for c in choices], device=first.device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    reward.network.requires_grad_(False)


@torch.no_grad()
def accuracy(
    rewards: Mapping[str, StepAware], predictor: Predictor, choices: Sequence[Choice], time: int, batch: int, seed: int
) -> dict[str, float]:
    """The share of choices that each model foretells at a level of noise, all on the same predicted images.

    Args:
        rewards: The models, by name.
        predictor: Makes what they are shown.
        choices: No ties.
        time: Of all of them.
        batch: Choices at a time.
        seed: Of the noise.
    """
    generator, right = torch.Generator().manual_seed(seed), Counter[str]()
    for start in range(0, len(choices), batch):
        some = choices[start : start + batch]
        times = torch.full((len(some),), time)
        images = predictor(some, times, generator)
        for name, reward in rewards.items():
            first, second = judge(reward, images, some, times)
            right[name] += int(((first > second).cpu() == torch.tensor([c.label > TIE for c in some])).sum())
    return {name: right[name] / len(choices) for name in rewards}


def batches_of(path: Path, size: int, seed: int, left_out: Counter[str]) -> Iterator[list[Choice]]:
    """Batches of the choices of the split `train`, over and over; raises as `rewards.fit.read`."""
    some: list[Choice] = []
    while True:
        there = False
        for choice in read(path, "train", None, seed, left_out):
            there = True
            some.append(choice)
            if len(some) == size:
                yield some
                some = []
        if not there:
            raise ValueError(f"{path} has no choices in its split train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line asks for; returns the exit status."""
    parser = Parser("rewards.fit_steps", __doc__ or "")
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="a folder of Parquet files")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the model goes; without it none is trained")
    parser.add_argument("--reward", default="shapes_steps", metavar="KIND", help="default: %(default)s")
    parser.add_argument("--option", type=option, action="append", default=[], metavar="NAME=VALUE", help="of KIND")
    parser.add_argument("--model", default="shapes", help="that predicts: a Stable Diffusion (default: %(default)s)")
    parser.add_argument("--guidance", type=positive_number, default=5.0, help="default: %(default)s, the paper's")
    parser.add_argument("--steps", type=positive, default=8000, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--batch", type=positive, default=64, help="choices of one (default: %(default)s)")
    parser.add_argument("--lr", type=positive_number, default=3e-6, help="default: %(default)s, the paper's")
    parser.add_argument("--weight-decay", type=positive_number, default=0.3, help="default: %(default)s, the paper's")
    parser.add_argument("--warmup", type=positive, default=500, help="steps (default: %(default)s)")
    parser.add_argument("--held-out", type=positive, default=500, metavar="N", help="choices (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    left_out, options = Counter[str](), dict(args.option)
    try:
        if args.out is not None and args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
            raise ValueError(f"{args.out} is there already, and a run may use it; give another --out")
        check_options(args.reward, options)
        made, before = (make_reward(args.reward, **options) for _ in range(2))
        if not isinstance(made, StepAware) or not isinstance(before, StepAware):
            raise ValueError(f"The reward {args.reward!r} takes no notice of the time, so there is nothing to train")
        held_out = read(args.dataset, "validation", None, args.seed, left_out)
        shown = list(islice((c for c in held_out if c.label != TIE), args.held_out))
        if not shown:
            raise ValueError(f"{args.dataset} has no choices in its split validation")
        predictor = Predictor(args.model, args.guidance)
        models = {args.reward: before}
        if args.out is not None:
            batches = batches_of(args.dataset, args.batch, args.seed, left_out)
            numbers = {"lr": args.lr, "weight_decay": args.weight_decay, "warmup": args.warmup, "seed": args.seed}
            fit(made, predictor, batches, steps=args.steps, **numbers)
            made.save(args.out)
            models = {"trained": made, "before": before}
        look = partial(accuracy, models, predictor, shown)
        curve = {time: look(time, args.batch, args.seed) for time in tqdm(TIMES, desc="accuracy")}
        if args.out is not None:
            report = {"held_out": len(shown), "accuracy": curve, "steps": args.steps, "batch": args.batch}
            (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except (UnknownReward, RewardUnavailable, RewardFailed, ValueError, OSError) as error:
        print(f"error: {one_line(error).rstrip('.')}.", file=sys.stderr)
        return 1
    print(f"accuracy on {len(shown):,} held-out pairs", "  time" + "".join(f"{name:>14s}" for name in models), sep="\n")
    print(*(f"  {time:4d}" + "".join(f"{of[name]:14.3f}" for name in models) for time, of in curve.items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
