"""What the actors cost: images per second of the whole loop against a plain loop over the same functions.

    python -m benchmarks.overhead [config.yaml] [key=value ...]

One sampler, synchronous. The plain loop runs rollout, rewards and learner in this process, with the same config and
requests; both are measured in turns in one run, and neither count starts before its first iteration is over (imports,
caches). The loop's time is wall time between iterations, with records and checkpoints.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import pyarrow.parquet as pq
import ray
from rich.console import Console

from actors.policy import Policy
from actors.rollout import rollout
from benchmarks.arguments import parse_config
from cluster.config import Config
from cluster.crew.crew import dismiss, make_crew
from cluster.local import place
from cluster.loop import train
from cluster.prompts import make_requests, prompts_of, read_prompts
from cluster.records.display import Display
from cluster.records.rundir import RunDirectory
from cluster.records.telemetry import Telemetry
from learner.advantages import Advantages
from learner.batch import collate
from learner.learner import Learner
from rewards.actor import RewardActor

ITERATIONS = 3
ROUNDS = 3


class PlainLoop:
    """The same work in one process, iteration by iteration.

    Attributes:
        policy: What is trained.
        rewards: What judges; its `score` is given the pictures of a request and their prompts.
    """

    def __init__(self, config: Config) -> None:
        self.policy = Policy.load(config.policy.model_copy(update={"model": config.pipeline}), config.seed)
        self.rewards = RewardActor(config.makers)
        objective = config.objective.build()
        self._config, self._plan = config, objective.plan(self.policy.transitions)
        self._learner = Learner(config.learner, self.policy, objective, config.seed)
        weights = {name: reward.weight for name, reward in config.rewards.items()}
        how = config.combination
        self._advantages = Advantages(weights, config.standardise, how.buffer, how.min_count, how.whiten)
        self._prompts, self._iteration = read_prompts(config.prompts.train), 0

    def iterate(self) -> None:
        """Draw, judge, learn."""
        config, trajectories, scores = self._config, [], []
        for request in make_requests(
            prompts_of(self._prompts, self._iteration, config.prompts_per_iteration, config.seed),
            config.prompts.samples,
            config.samplers.request_size,
            seed=config.seed,
            iteration=self._iteration,
            most=None,
            stored_steps=self._plan.stored_steps,
            share_init_noise=self._plan.share_init_noise,
        ):
            pixels, stored = rollout(self.policy, request, self._learner.version)
            trajectories.append(stored)
            scores.append(self.rewards.score(pixels, request.prompts))
        joined = np.concatenate([score.values for score in scores], axis=1)
        prompted = [prompt for stored in trajectories for prompt in stored.prompts]
        groups = np.concatenate([stored.prompt_index for stored in trajectories])
        made, _ = self._advantages.of(dict(zip(scores[0].names, joined, strict=True)), groups, prompted)
        self._learner.step(collate(trajectories, made))
        self._iteration += 1


def plain_loop(config: Config) -> float:
    """Seconds an iteration of the same work in one process."""
    loop, times = PlainLoop(config), [time.perf_counter()]
    for _ in range(ITERATIONS):
        loop.iterate()
        times.append(time.perf_counter())
    return statistics.median(np.diff(times[1:]))


def whole_loop(
    config: Config, watch: Callable[[], AbstractContextManager[Telemetry | None]] = contextlib.nullcontext
) -> float:
    """Median seconds an iteration of `cluster.loop`, through Ray, while `watch` looks on."""
    with tempfile.TemporaryDirectory() as folder:
        config = config.model_copy(update={"folder": folder, "name": "measured"})
        run = RunDirectory.create(config)
        crew = make_crew(config, place(config))
        with watch() as telemetry, Display(Console(quiet=True), config.iterations, telemetry=telemetry) as display:
            train(config, crew, run, display)
        dismiss(crew)
        ray.shutdown()
        parts = sorted((run.path / "metrics.parquet").glob("*.parquet"))[1:-1]  # evaluations left out
        return statistics.median(np.diff([pq.read_table(part)["time"][0].as_py() for part in parts]))


def short_run(module: str, description: str | None, arguments: Sequence[str], iterations: int) -> Config:
    """A benchmark's configuration, for so many iterations after a first one, with next to no evaluation."""
    overrides = [f"iterations={iterations + 1}", "evaluation={every: 0, samples: 2, held_out_samples: 2}"]
    return parse_config(module, description, arguments, *overrides)


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    config = short_run("benchmarks.overhead", __doc__, arguments, ITERATIONS)
    ratios = []
    for turn in range(ROUNDS):
        plain, whole = plain_loop(config), whole_loop(config)
        ratios.append(plain / whole)
        print(
            f"round {turn + 1}: plain {config.batch_size / plain:.2f} images/s, whole loop "
            f"{config.batch_size / whole:.2f} images/s, ratio {plain / whole:.3f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.3f} (at least 0.90 is the aim)")


if __name__ == "__main__":
    main(sys.argv[1:])
