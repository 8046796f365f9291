"""`python -m benchmarks.gpu [sd15|sdxl|sd35|tiny|tiny_sdxl|tiny_sd35] [options]`: time and memory on one device.

Published architectures with random weights (or ones that a CPU goes through in a second): pictures a second of a
sampler beside diffusers' own pipeline, transitions a second of a learner and its share of what a matrix product makes
here, both once more with compiled networks, the peak of memory of both passes by batch and number format beside the
estimate that a run prints, and how long new weights are on their way.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusion3Pipeline

from actors.config import PolicyConfig
from actors.devices import pick_device, pick_dtype
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from benchmarks.gpu import architectures, gauges
from benchmarks.gpu.publication import on_their_way
from cluster.crew.memory import learning_bytes, sampling_bytes
from learner.batch import Batch, collate
from learner.objectives.objective import Part
from learner.objectives.ppod import PPODConfig
from shapes.arguments import Parser, positive

_PROMPT = "a red circle"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a line a figure; the exit status."""
    parser = Parser("benchmarks.gpu", __doc__ or "")
    parser.add_argument("architecture", nargs="?", choices=architectures.NAMES, default="sd15", help="whose sizes")
    parser.add_argument("--pictures", type=positive, default=4, help="of a rollout (default: %(default)s)")
    parser.add_argument("--micro-batch", type=positive, default=4, help="of the learner (default: %(default)s)")
    parser.add_argument("--steps", type=positive, default=20, help="of the chain (default: %(default)s)")
    parser.add_argument("--batches", type=positive, nargs="*", default=[1, 4], help="whose memory is measured")
    formats = ("float32", "bfloat16", "float16")
    parser.add_argument("--dtypes", choices=formats, nargs="*", default=["bfloat16"], help="in which it is measured")
    parser.add_argument("--compile", action="store_true", help="also with policy.compile")
    parser.add_argument("--publication", action="store_true", help="also how long weights are on their way; starts Ray")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = architectures.write(args.architecture, Path(folder) / "model")
        config = PolicyConfig(model=str(model), steps=args.steps)
        _speed(config, args.pictures, args.micro_batch, args.compile)
        for dtype in args.dtypes:
            _memory(config.model_copy(update={"dtype": dtype}), args.batches)
        if args.publication:
            size, published, lag = on_their_way(config)
            print(
                f"weights: {size / 1e6:.3g} MB, {published:.3g} s to publish, {lag:.3g} s until a sampler acts by them"
            )
    return 0


def _speed(config: PolicyConfig, pictures: int, micro_batch: int, compiled: bool) -> None:
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    plain = DiffusionPipeline.from_pretrained(config.model, dtype=dtype).to(device)
    plain.set_progress_bar_config(disable=True)
    draw = partial(plain, [_PROMPT] * pictures, num_inference_steps=config.steps, guidance_scale=config.guidance)
    if not isinstance(plain, StableDiffusion3Pipeline):  # which has no noise to add
        plain.scheduler = DDIMScheduler.from_config(plain.scheduler.config)
        draw = partial(draw, eta=1)
    print(f"{device}, {dtype}, torch {torch.__version__}; {pictures} pictures of {config.steps} steps")
    theirs, most = pictures / gauges.fastest(draw, device), gauges.ceiling(device, dtype)
    del plain, draw
    work = None
    for name, changes in {"": {}, ", compiled": {"compile": True}}.items():
        if changes and not compiled:
            break
        policy = Policy.load(PolicyConfig(**config.model_dump() | changes))
        stored = policy.transitions.stochastic_steps
        request = Request(0, 0, (_PROMPT,) * pictures, (0,) * pictures, tuple(range(pictures)), stored)
        ours = pictures / gauges.fastest(partial(rollout, policy, request), device)
        print(f"sampler{name}: {ours:.3g} images/s, {ours / theirs:.2f} of diffusers' pipeline ({theirs:.3g})")
        rewards = np.linspace(-1, 1, pictures, dtype=np.float32)
        update = partial(_update, policy, collate([rollout(policy, request)[1]], rewards), micro_batch)
        work = work or gauges.operations(update)  # a compiled network does not say
        seconds = gauges.fastest(update, device)
        print(
            f"learner{name}: {pictures * len(stored) / seconds:.3g} transitions/s, {micro_batch} at a time; "
            f"{work / seconds / 1e12:.3g} TFLOP/s, {work / seconds / most:.2f} of a matrix product's {most / 1e12:.3g}"
        )


def _update(policy: Policy, batch: Batch, micro_batch: int) -> None:
    """The gradients of all of a batch under PPOD."""
    part = Part(torch.arange(len(batch.latents)), torch.arange(batch.latents.shape[1]))
    PPODConfig(kl_weight=0.0).build().backward(policy, batch, part, micro_batch)


def _memory(config: PolicyConfig, batches: Sequence[int]) -> None:
    policy = Policy.load(config)
    device = policy.device
    dtype = pick_dtype(config.dtype, device)
    outline = Policy.outline(config, Path(config.model), dtype)
    for size in batches:
        x, step = torch.randn(size, *policy.latent_shape, device=device), torch.zeros(size, dtype=torch.int64)
        conditioning = policy.encode([_PROMPT] * size)
        passes: dict[str, tuple[Any, int]] = {
            "sampler": (partial(_sample, policy, x, step, conditioning), sampling_bytes(outline, size)),
            "learner": (partial(_learn, policy, x, step, conditioning), learning_bytes(outline, size, "scores")),
        }
        for name, (run, estimated) in passes.items():
            found = gauges.peak(run, device)
            seen = found > gauges.SEEN or device.type == "cuda"
            measured = f"measured {found / 1e6:.0f} ({estimated / found:.2f})" if seen else "too little to be measured"
            print(f"{name}'s pass, {config.dtype}, {size} at a time: estimated {estimated / 1e6:.0f} MB, {measured}")


@torch.no_grad()
def _sample(policy: Policy, x: torch.Tensor, step: torch.Tensor, conditioning: Any) -> None:
    policy.predict(x, step, conditioning)
    policy.decode(x)


def _learn(policy: Policy, x: torch.Tensor, step: torch.Tensor, conditioning: Any) -> None:
    for parameter in policy.parameters:
        parameter.grad = None
    policy.predict(x, step, conditioning).sum().backward()


if __name__ == "__main__":
    sys.exit(main())
