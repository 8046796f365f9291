"""`python -m benchmarks.gpu [sd15|tiny] [--pictures N] [--micro-batch N] [--steps N]`: time and memory on one device.

Stable Diffusion 1.5's architecture with random weights (or one that a CPU goes through in a second): pictures a second
of a sampler beside diffusers' own pipeline, transitions a second of a learner, and the peak of memory of both passes
beside the estimate that a run prints. Compilation, SDXL and the share of a matmul ceiling are not measured.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from actors.config import PolicyConfig
from actors.devices import pick_device, pick_dtype
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from cluster.crew.memory import learning_bytes, sampling_bytes
from learner.batch import collate
from learner.objectives.objective import Part
from learner.objectives.ppod import PPODConfig
from shapes.arguments import Parser, positive
from tests.support.tiny import make_pipeline

_SD15: dict[str, dict[str, Any]] = {
    "unet": dict(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=768,
        attention_head_dim=8, norm_num_groups=32, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    ),
    "vae": dict(
        block_out_channels=(128, 256, 512, 512), down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2, norm_num_groups=32, sample_size=512,
    ),
    "text": dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12),
}  # fmt: skip
_SEEN = 50e6  # bytes by which a process has to grow until allocations are all that it grows by
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {"sd15": _SD15, "tiny": {}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; the exit status."""
    parser = Parser("benchmarks.gpu", __doc__ or "")
    parser.add_argument("architecture", nargs="?", choices=list(ARCHITECTURES), default="sd15", help="whose sizes")
    parser.add_argument("--pictures", type=positive, default=4, help="of a rollout (default: %(default)s)")
    parser.add_argument("--micro-batch", type=positive, default=4, help="of the learner (default: %(default)s)")
    parser.add_argument("--steps", type=positive, default=20, help="of the chain (default: %(default)s)")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = make_pipeline(Path(folder) / "model", **ARCHITECTURES[args.architecture])
        measure(model, args.pictures, args.micro_batch, args.steps)
    return 0


def measure(model: Path, pictures: int, micro_batch: int, steps: int) -> None:
    """Print a line for each figure of a Stable Diffusion in a folder."""
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    config = PolicyConfig(model=str(model), steps=steps)
    policy, outline = Policy.load(config), Policy.outline(config, model, dtype)
    stored = policy.transitions.stochastic_steps
    request = Request(0, 0, ("a red circle",) * pictures, (0,) * pictures, tuple(range(pictures)), stored)
    plain = StableDiffusionPipeline.from_pretrained(model, dtype=dtype, safety_checker=None).to(device)
    plain.scheduler = DDIMScheduler.from_config(plain.scheduler.config)
    plain.set_progress_bar_config(disable=True)

    def draw_plain() -> None:
        plain(["a red circle"] * pictures, num_inference_steps=steps, guidance_scale=config.guidance, eta=1.0)

    print(f"{device}, {dtype}, torch {torch.__version__}; {pictures} pictures of {steps} steps")
    ours, theirs = (pictures / _fastest(run, device) for run in (lambda: rollout(policy, request), draw_plain))
    print(f"sampler: {ours:.3g} images/s, {ours / theirs:.2f} of diffusers' pipeline ({theirs:.3g})")

    rewards = np.linspace(-1, 1, pictures, dtype=np.float32)
    batch, objective = collate([rollout(policy, request)[1]], rewards), PPODConfig(kl_weight=0.0).build()
    part = Part(torch.arange(pictures), torch.arange(len(stored)))
    seconds = _fastest(lambda: objective.backward(policy, batch, part, micro_batch), device)
    print(f"learner: {pictures * len(stored) / seconds:.3g} transitions/s, {micro_batch} at a time")

    x, step = batch.latents[:, 0].to(device), torch.zeros(pictures, dtype=torch.int64)
    conditioning = policy.encode(["a red circle"] * pictures)

    def sample() -> None:
        with torch.no_grad():
            policy.predict(x, step, conditioning)
            policy.decode(x)

    def learn() -> None:
        for parameter in policy.parameters:
            parameter.grad = None
        rows = torch.arange(micro_batch) % pictures
        policy.predict(x[rows.to(device)], step[rows], policy.conditions(micro_batch)).sum().backward()

    for name, run, estimated in (
        ("sampler", sample, sampling_bytes(outline, pictures)),
        ("learner", learn, learning_bytes(outline, micro_batch, "scores")),
    ):
        found = _peak(run, device)
        seen = found > _SEEN or device.type == "cuda"
        measured = f"measured {found / 1e6:.0f} ({estimated / found:.2f})" if seen else "too little to be measured"
        print(f"{name}'s pass: estimated {estimated / 1e6:.0f} MB at most, {measured}")


def _fastest(run: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Seconds of the fastest round, after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _peak(run: Callable[[], object], device: torch.device) -> int:
    """Bytes beyond those before: of torch's allocator on a GPU, of the process on a CPU (large tensors only)."""
    run()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    process, most, done = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return max(most[0], 1)


if __name__ == "__main__":
    sys.exit(main())
