"""Equal work: our side and the peers that do the same, each with its fastest micro-batch, in turns."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from actors.adapters import DEFAULT
from benchmarks.overhead import ITERATIONS, whole_loop
from benchmarks.peers.environment import interpreter
from benchmarks.peers.pipeline import load, text
from benchmarks.peers.process import Process
from benchmarks.peers.rounds import check_equal, of_records, ratios, speed
from benchmarks.peers.work import Round, Work
from cluster.config import load_words
from cluster.errors import ConfigError
from cluster.prompts import prompts_of, read_prompts
from learner.objectives.ddpo import DDPOConfig
from learner.objectives.diffusion_dpo import DiffusionDPOConfig

HERE = Path(__file__).parent
EQUAL_WORK = HERE / "equal_work.yaml"
PEERS = {"trl_ddpo": "ours", "plain_ddpo": "ours", "diffusers_dpo": "ours_dpo"}  # and our side of each one's work
WHOLE = "ours, whole loop"
_UPDATES = 2  # a round, of sides in processes of their own
_TRIALS = 3  # updates with each micro-batch, by whose median the fastest is chosen


def work_of(words: Sequence[str]) -> Work:
    """The work that a command line asks for.

    Raises:
        ConfigError: If there is something wrong with it, or it is not DDPO with one optimizer step an update.
    """
    config = load_words(words)
    ddpo, policy, learner = config.objective, config.policy, config.learner
    if not isinstance(ddpo, DDPOConfig):
        raise ConfigError("Peers do DDPO's work; set objective.name=ddpo.")
    if (ddpo.gradient, ddpo.step_fraction, ddpo.updates, ddpo.epochs) != ("importance", 1, 1, 1):
        raise ConfigError(
            "Peers take one optimizer step an update, over all transitions of all its images; set "
            "objective.gradient=importance, objective.step_fraction=1, objective.updates=1 and objective.epochs=1."
        )
    asked = prompts_of(read_prompts(config.prompts.train), 0, config.prompts_per_iteration, config.seed)
    prompts = tuple(str(prompt) for prompt in asked for _ in range(config.prompts.samples))
    pipeline = load(config.pipeline)
    return Work(
        words=tuple(words),
        pipeline=config.pipeline,
        prompts=prompts,
        tokens=pipeline.tokenizer(list(prompts), padding="max_length").input_ids,
        text=text(pipeline, prompts[:1]).flatten().tolist(),
        steps=policy.steps,
        guidance=policy.guidance,
        rank=policy.lora_rank or DEFAULT.rank,
        alpha=policy.lora_alpha or int(DEFAULT.alpha),
        lr=learner.lr,
        weight_decay=learner.weight_decay,
        max_grad_norm=learner.max_grad_norm,
        clip_range=ddpo.clip_range,
        max_advantage=ddpo.max_advantage,
        beta=DiffusionDPOConfig().beta,
        seed=config.seed,
    )


def start(name: str, environments: Path, work: Work) -> Process:
    """A side's process; a peer that has a list of packages runs in an environment of its own.

    Raises:
        ConfigError: If it cannot begin.
        WriteError: If the environment cannot be written.
        CalledProcessError: If pip fails.
    """
    packages = HERE / f"{name}.txt"
    python = interpreter(packages, environments / name) if packages.is_file() else Path(sys.executable)
    return Process(name, python, work)


def compare(words: Sequence[str], own: str, peers: Sequence[str], rounds: int, environments: Path) -> None:
    """Measure one of our sides and the peers that do its work, and print.

    Raises:
        ConfigError: If a process ends, or sides do not do the same. And what `start` raises.
        Unlike: If iterations of the whole loop do not do the same.
    """
    work = work_of(words)
    with ExitStack() as stack:

        def begin(name: str) -> Process:
            process = start(name, environments, work)
            stack.callback(process.close)
            return process

        begun = {name: begin(name) for name in (own, *peers)}  # all of them, before anything takes its time
        tried = {name: _fastest(process, partial(begin, name)) for name, process in begun.items()}
        check_equal({name: of.did for name, of in tried.items()})
        _print_work(tried)
        sides = {name: partial(of.process.round, _UPDATES) for name, of in tried.items()}
        if own == "ours":
            sides = {WHOLE: partial(_whole, work, tried[own].micro_batch)} | sides
        measured = []
        for number in range(rounds):
            measured.append({name: take() for name, take in sides.items()})
            check_equal(measured[-1])
            images = tried[own].did.images or 2 * len(work.prompts)
            speeds = ", ".join(f"{name} {speed(of, images):.2f}" for name, of in measured[-1].items())
            print(f"round {number + 1}, images/s: {speeds}", flush=True)
    for ours in (name for name in sides if name not in peers):
        for peer in peers:
            of = ratios(measured, ours, peer)
            print(
                f"median ratio, {ours} / {peer}: {statistics.median(of):.3f} (rounds {min(of):.3f} to {max(of):.3f})",
                flush=True,
            )


class _Tried(NamedTuple):
    """A side, ready."""

    process: Process
    micro_batch: int
    did: Round  # an update


def _fastest(first: Process, begin: Callable[[], Process]) -> _Tried:
    """A side with the micro-batch that is its fastest: by the median of a few updates, which they do in turns.

    Each has a process of its own (`benchmarks.peers.work.answer`); those of the others are ended.

    Args:
        first: A process of the side.
        begin: Begins another one.
    """
    one, *others = first.micro_batches
    processes = {one: first} | {other: begin() for other in others}
    for micro_batch, process in processes.items():
        process.prepare(micro_batch)
    rounds = [{at_a_time: process.round(1) for at_a_time, process in processes.items()} for _ in range(_TRIALS)]
    fastest = min(processes, key=lambda own: statistics.median(each[own].seconds[0] for each in rounds))
    for at_a_time, process in processes.items():
        if at_a_time != fastest:
            process.close()
    return _Tried(processes[fastest], fastest, rounds[-1][fastest])


def _whole(work: Work, micro_batch: int) -> Round:
    """The loop through Ray, as its records have it, with a micro-batch that was chosen for one process."""
    words = [f"learner.micro_batch={micro_batch}", f"iterations={ITERATIONS + 1}"]
    measured = whole_loop(load_words([*work.words, *words]))
    return of_records(measured.metrics, measured.seconds)


def _print_work(tried: Mapping[str, _Tried]) -> None:
    of = next(iter(tried.values())).did
    print(f"an update: {of.evaluations:,} network evaluations, {of.images} images judged, {of.optimizer_steps} step")
    for name, (_, at_a_time, did) in tried.items():
        print(f"{name}: {at_a_time} at a time, the reward takes {1000 * did.judging:.0f} ms", flush=True)
