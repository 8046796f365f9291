"""The bare network as the yardstick: what share of its speed sampler and learner reach, and where the rest goes.

    python -m benchmarks.limit [config.yaml] [key=value ...]

A rollout of a request and a learner's step on a batch are watched. The step is that of a run: on a batch of the
policy's own, with log-probabilities taken again where a run does it. Then their calls of the denoiser are made again by
themselves: the same samples, as often and as many at a time, under the same adapter, guidance's half with them. Those
of a rollout once more forward, and one pass of the decoder; those of a step that had a gradient forward and backward.
That is the naked network: of a UNet in both memory formats, of which the faster one counts. Both are measured in turns,
in this process, without Ray, in as many threads as OMP_NUM_THREADS says and in the configuration's number format; the
first round counts for nothing (caches), of the others the medians are printed. Under each role stands where its time
goes.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from actors import rollout as rolling
from actors.policy import Policy
from actors.transitions import Transitions
from benchmarks.arguments import parse_config
from benchmarks.plain import PlainRun
from benchmarks.stopwatch import Stopwatch, synchronised_time

ROUNDS = 3
FORMATS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}  # of a UNet, its own first


class Call(NamedTuple):
    """What a network was asked."""

    args: Any
    named: Any
    acts: str | None  # the adapter
    gradient: bool


@contextmanager
def calls_of(policy: Policy) -> Iterator[list[Call]]:
    """The calls of a policy's network within the block."""
    calls: list[Call] = []

    def note(_: Any, args: Any, named: Any) -> None:
        calls.append(Call(_each(_detached, args), _each(_detached, named), policy._acts_as, torch.is_grad_enabled()))

    handle = policy.network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def naked(policy: Policy, calls: Sequence[Call], layout: torch.memory_format) -> float:
    """Seconds that the network takes for calls by themselves, with the way back of those that had a gradient."""
    network, seconds = policy.network.to(memory_format=layout), 0.0

    def laid_out(tensor: Tensor) -> Tensor:
        return tensor.to(memory_format=layout) if tensor.dim() == 4 else tensor

    for call in calls:
        args, named = _each(laid_out, call.args), _each(laid_out, call.named)
        with policy.using(call.acts), torch.set_grad_enabled(call.gradient):
            began = synchronised_time(policy.device)
            output = network(*args, **named)[0]
            if output.requires_grad:
                output.backward(torch.ones_like(output))
            seconds += synchronised_time(policy.device) - began
        network.zero_grad()
    return seconds


def measure(
    policy: Policy, role: Callable[[], object], counts: Callable[[Call], bool], alone: Callable[[], object]
) -> dict[str, float]:
    """Median seconds of a role, of its calls that count in each memory format, and of what is naked beside them."""
    either = isinstance(policy.network, UNet2DConditionModel) and not policy.config.compile
    layouts = FORMATS if either else {"as it is": torch.preserve_format}
    own = next(iter(layouts.values()))
    rounds = []
    for _ in range(1 + ROUNDS):
        with calls_of(policy) as calls:
            seconds = {"role": _timed(policy, role), "alone": _timed(policy, alone)}
        counted = [call for call in calls if counts(call)]
        rounds.append(seconds | {name: naked(policy, counted, layout) for name, layout in layouts.items()})
        policy.network.to(memory_format=own)
    return {name: statistics.median(seconds[name] for seconds in rounds[1:]) for name in rounds[0]}


def sampler(run: PlainRun) -> None:
    """Measure rollouts of the first request, and print."""
    policy, request = run.policy, run.requests(0)[0]
    images = len(request.prompts)
    latents = torch.zeros(images, *policy.latent_shape, device=policy.device)

    def draw() -> None:
        rolling.rollout(policy, request)

    with torch.no_grad():
        seconds = measure(policy, draw, lambda call: True, lambda: policy.decode(latents))
    _print("sampler", images, images * len(policy.transitions), seconds)
    _profile(
        policy,
        draw,
        (policy.network, "forward", "network"),
        (rolling._Watched, "found", "KL to the pretrained model"),
        (policy, "encode", "text"),
        (policy, "decode", "decoder"),
        (rolling, "noise", "noise"),
        (Transitions, "mean", "transitions"),
        (Transitions, "std_at", "transitions"),
        (rolling, "log_prob", "transitions"),
        (rolling, "_stack", "record"),
        (rolling, "_pixels", "record"),
        (rolling, "_finite", "record"),
    )


def learner(run: PlainRun) -> None:
    """Measure steps on one batch, and print."""
    policy, batch = run.policy, run.collate([run.draw(request) for request in run.requests(0)])
    parts = list(run.objective.parts(batch, torch.Generator()))

    def step() -> None:
        """As on a fresh batch: the policy stays the one that drew this one, because it learns at rate 0."""
        for group in run.learner.optimizer.param_groups:
            group["lr"] = 0.0
        run.learner.step(replace(batch, version=run.learner.version))

    step()  # whose ratios are checked, as are the next one's; no later one's are
    seconds = measure(policy, step, lambda call: call.gradient, lambda: None)
    _print("learner", len(batch.prompts), sum(len(part.samples) * part.columns.shape[-1] for part in parts), seconds)
    _profile(
        policy,
        step,
        (policy.network, "forward", lambda: "forward with a gradient" if torch.is_grad_enabled() else "without one"),
        (torch.autograd, "grad", "backward"),
        (torch.autograd, "backward", "backward"),
        (policy, "encode", "text"),
        (policy, "decode", "decoder"),
        (run.learner.optimizer, "step", "optimizer"),
    )


def _print(role: str, images: int, transitions: int, seconds: Mapping[str, float]) -> None:
    bare = {name: value + seconds["alone"] for name, value in seconds.items() if name not in ("role", "alone")}
    best = min(bare, key=bare.__getitem__)
    print(
        f"{role}: {images / seconds['role']:.4g} images/s, {transitions / seconds['role']:.4g} transitions/s; "
        f"share of the naked network {bare[best] / seconds['role']:.3f}"
    )
    for name, value in bare.items():
        print(f"  naked, {name}: {images / value:.4g} images/s, {transitions / value:.4g} transitions/s")


def _profile(policy: Policy, run: Callable[[], object], *functions: tuple[Any, str, str | Callable[[], str]]) -> None:
    watch = Stopwatch(policy.device)
    with ExitStack() as stack:
        for function in functions:
            stack.enter_context(watch.on(*function))
        total = _timed(policy, run)
    shares = {label: seconds / total for label, seconds in watch.seconds.items()}
    shares["the rest"] = 1 - sum(shares.values())
    print("  of its time: " + ", ".join(f"{label} {share:.1%}" for label, share in shares.items()), flush=True)


def _timed(policy: Policy, run: Callable[[], object]) -> float:
    began = synchronised_time(policy.device)
    run()
    return synchronised_time(policy.device) - began


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _each(change: Callable[[Tensor], Tensor], given: Any) -> Any:
    """The arguments of a call with each tensor in them changed."""
    if isinstance(given, Tensor):
        return change(given)
    if isinstance(given, Mapping):
        return {name: _each(change, value) for name, value in given.items()}
    return tuple(_each(change, value) for value in given) if isinstance(given, (tuple, list)) else given


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    run = PlainRun(parse_config("benchmarks.limit", __doc__, arguments))
    if run.requests(0)[0].noisy_steps is not None:
        sys.exit("error: A window of steps with noise is another chain in each iteration; set objective.window=null.")
    dtype = str(next(run.policy.network.parameters()).dtype).removeprefix("torch.")
    print(f"{run.policy.device}, {torch.get_num_threads()} threads, {dtype}, torch {torch.__version__}")
    sampler(run)
    learner(run)


if __name__ == "__main__":
    main(sys.argv[1:])
