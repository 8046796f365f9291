"""The command line that `cluster.local` and `cluster.train` share: read the config, get a crew, train, report."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from rich.console import Console
from rich.logging import RichHandler

from cluster.config import Config, ConfigError, load_config, load_words
from cluster.crew import assemble, dismiss, wait_for
from cluster.display import Display
from cluster.environments import StartError
from cluster.learner_group import Hung
from cluster.loop import RunStopped, train
from cluster.placement import Placement
from cluster.pool import ActorsLost
from cluster.report import write_report
from cluster.rundir import RunDirectory
from cluster.stopping import Stopped, at_once, check, deferred
from cluster.telemetry import Telemetry
from learner import checkpoint
from learner.checkpoint import CheckpointError
from rewards.errors import RewardFailed, RewardUnavailable

log = logging.getLogger(__name__)


def main(program: str, description: str, place: Callable[[Config], Placement], arguments: Sequence[str] | None) -> int:
    """Run a training job.

    Args:
        program: What the user typed, for `--help`.
        description: What it does.
        place: Starts or joins Ray and says where the actors go.
        arguments: Of the command line; `None` takes the process's own.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument(
        "overrides", nargs="*", metavar="[config.yaml] [key=value ...]", help="a config file, then settings"
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue the run in this folder")
    args = parser.parse_args(arguments)
    console = Console()
    run = None
    logging.basicConfig(level="WARNING", format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    try:
        with deferred():
            try:
                with at_once():
                    config, run = _resume(args) if args.resume else _start(args.overrides)
                _describe(config, run, console)
                _supervise(config, run, place, console)
                report = write_report(run)
            finally:
                ray.shutdown()
    except RayTaskError as error:
        print(f"error: {str(error.cause).strip()}", file=sys.stderr)
        log.debug("raised in an actor", exc_info=error)
        return 1
    except (ConfigError, CheckpointError, RunStopped, ActorsLost, StartError, RewardUnavailable, RewardFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (Stopped, KeyboardInterrupt) as stop:
        asked = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
        print(f"stopped by {asked.name}{_how_to_go_on(run, program)}", file=sys.stderr)
        return 128 + asked
    lines = f"report: {report}", f"adapter: {checkpoint.newest(run.checkpoints)}"
    console.print(*lines, sep="\n", highlight=False, soft_wrap=True)
    return 0


def _how_to_go_on(run: RunDirectory | None, program: str) -> str:
    if run is None:
        return " before the run began"
    at = f" at {checkpoint.newest(run.checkpoints)}" if checkpoint.list_all(run.checkpoints) else ""
    return f"{at}; continue with: {program} --resume {run.path}"


def _start(words: Sequence[str]) -> tuple[Config, RunDirectory]:
    config = load_words(words)
    return config, RunDirectory.create(config)


def _resume(args: argparse.Namespace) -> tuple[Config, RunDirectory]:
    if args.overrides:
        raise ConfigError("--resume continues a run with its own configuration; give no other settings.")
    if not (args.resume / "config.yaml").is_file():
        raise ConfigError(f"There is no run in {args.resume} (no config.yaml).")
    config, run = load_config(args.resume / "config.yaml"), RunDirectory(args.resume)
    if checkpoint.list_all(run.checkpoints):
        checkpoint.newest(run.checkpoints)  # refuse an unreadable one before any actor starts
    return config, run


def _describe(config: Config, run: RunDirectory, console: Console) -> None:
    rewards = ", ".join(
        f"{n} (weight {r.weight:g})" if r.weight else f"{n} (watched)" for n, r in config.rewards.items()
    )
    console.print(
        f"{run.path}: {config.iterations} iterations of {config.objective.name}, each {config.prompts_per_iteration} "
        f"prompts x {config.prompts.samples} samples = {config.batch_size} images in requests of "
        f"{config.samplers.request_size}; {config.samplers.count} sampler(s); rewards {rewards}",
        highlight=False,
        soft_wrap=True,
    )


def _supervise(config: Config, run: RunDirectory, place: Callable[[Config], Placement], console: Console) -> None:
    """Train, with a new crew from the last checkpoint when something was lost that cannot be replaced alone."""
    placement = place(config)
    if placement.report:
        console.print(placement.report, highlight=False, soft_wrap=True)
    with Display(console, config.iterations, telemetry=Telemetry(run.path.name)) as display:
        display.status("starting")
        furthest, losses, restarts = run.furthest, 0, 0
        while True:
            crew = assemble(config, placement)
            try:
                with at_once():
                    wait_for(crew, config, again=restarts > 0)
                return train(config, crew, run, display)
            except (RayActorError, RayTaskError, ObjectLostError, StartError, Hung) as error:
                # A StartError here may be of an actor that came back, and found no weight store to connect to.
                if (lost := crew.lost(error)) is None:
                    raise
                check()  # a run that is to end needs no new crew
                if run.furthest > furthest:
                    furthest, losses = run.furthest, 0
                losses, restarts = losses + 1, restarts + 1
                display.lost("learner", restarts)
                if losses > config.failures.max_deaths:
                    raise ActorsLost(
                        f"The learner was lost {losses} times, more than failures.max_deaths="
                        f"{config.failures.max_deaths} allows between two iterations; the last time: {lost}"
                    ) from error
                log.warning("All actors start anew, and the run continues from its last checkpoint. (%s)", lost)
                display.status("starting")
            finally:
                dismiss(crew)
