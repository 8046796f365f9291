"""The command line that `cluster.local` and `cluster.train` share: read the config, get a crew, train, report."""

from __future__ import annotations

import difflib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
import torch
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from rich.console import Console
from rich.logging import RichHandler

from actors.model_files import is_local
from cluster.arguments import Parser
from cluster.config import Config, load_words
from cluster.crew.crew import Crew, assemble, dismiss, wait_for
from cluster.crew.machine import machines
from cluster.crew.memory import estimate
from cluster.crew.placement import Placement
from cluster.crew.room import check_room
from cluster.errors import ActorsLost, ConfigError, Hung, StartError, sentence
from cluster.evaluation import leaves_out
from cluster.guarding import stopped_by
from cluster.loop import train
from cluster.pages.report import write_report
from cluster.prompts import read_prompts
from cluster.records.display import Display
from cluster.records.origin import note_start
from cluster.records.reading import CONFIG
from cluster.records.rundir import RunDirectory
from cluster.records.telemetry import Telemetry
from cluster.stopping import Stopped, at_once, check, deferred
from cluster.text import ShownFormatter, counted, shown
from learner import checkpoint

log = logging.getLogger(__name__)

# Settings that a run may get anew when it is resumed: how long it goes on and how safely, and where its dataset is now
# (`data.checksum` knows it again); not what it learns.
_CHANGEABLE = ("iterations=", "checkpoints.", "failures.", "guard.", "loggers=", "data.path=")


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
    parser = Parser(program.removeprefix("python -m "), description)
    parser.add_settings()
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help=f"continue the run in this folder; of its settings only {', '.join(_CHANGEABLE)} may be given anew",
    )
    args = parser.parse_args(arguments)
    console = Console(emoji=False)  # `a:b:` is a name like others
    run, status, last = None, 0, ""
    handler = RichHandler(console=console, show_path=False)
    handler.setFormatter(ShownFormatter("%(message)s"))
    logging.basicConfig(level="WARNING", handlers=[handler])
    # Of results that nobody fetches; the driver says in one sentence what of them matters.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    try:
        with deferred(lambda asked: _last_words(asked, run, program)):
            try:
                with at_once():
                    resumed = args.resume is not None
                    run = (
                        _resume(args.resume, args.settings)
                        if resumed
                        else RunDirectory.claim(load_words(args.settings))
                    )
                    finished = _is_finished(run, program)
                if not finished:
                    _describe(run.config, run, console)
                    words = sys.argv[1:] if arguments is None else arguments
                    _supervise(run.config, run, place, console, [*program.split(), *words])
            finally:
                ray.shutdown()
                report = None if run is None else _let_go(run)
            what = "adapter" if run.config.policy.train == "lora" else "weights"
            lines = [f"report: {report}"] if report else []
            lines += [f"{what}: {checkpoint.newest(run.checkpoints)}"]
            lines += [f"best evaluation: {path}" for path in checkpoint.list_all(run.best)]
            console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)
    except (Stopped, KeyboardInterrupt) as stop:
        asked = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
        status, last = 128 + asked, f"stopped by {asked.name}{_how_to_go_on(run, program)}"
    except (Exception, SystemExit) as error:
        status, last = 1, f"error: {sentence(error, run.path if run and run.begun else None)}"
    if last:  # after all that Ray has to say
        print(last, file=sys.stderr)
    return status


def _let_go(run: RunDirectory) -> Path | None:
    """Release a run, however it ended, then write its page, which until then would say that it is under way."""
    run.release()
    if not run.begun:
        return None
    try:
        return write_report(run)
    except Exception as error:  # a page is no reason for a run to fail
        log.warning("The run's page cannot be written (%s).", sentence(error))
        return None


def _resume(path: Path, overrides: Sequence[str]) -> RunDirectory:
    path = Path(os.path.expanduser(path)).absolute()
    try:
        _check_is_run(path)
    except OSError as error:  # such as of a path that no file system takes
        raise ConfigError(f"{path} cannot be looked at: {error.strerror}.") from error
    for word in overrides:
        if not word.startswith(_CHANGEABLE):
            raise ConfigError(
                f"--resume continues a run with its own settings, of which only {', '.join(_CHANGEABLE)} may be "
                f"given anew and not {word!r}."
            )
    return RunDirectory.resume(path, overrides)


def _check_is_run(path: Path) -> None:
    """Refuse what is no run's folder, with what may have been meant.

    Raises:
        ConfigError: If it is none.
    """
    if (path / CONFIG).is_file():
        return
    parents = [folder for folder in path.parents if (folder / CONFIG).is_file()]
    if parents:
        raise ConfigError(f"{path} is inside of a run and no run; continue it with --resume {parents[0]}.")
    if path.is_file():
        raise ConfigError(f"{path} is a file and no run; --resume takes a run's folder.")
    inside = [found.parent for found in sorted(path.glob(f"*/{CONFIG}"))]
    if inside:
        names = ", ".join(str(run) for run in inside[:5]) + (", ..." if len(inside) > 5 else "")
        raise ConfigError(f"{path} holds runs and is none; choose one of {names}.")
    beside = [found.parent.name for found in path.parent.glob(f"*/{CONFIG}")]
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"; did you mean {path.parent / near[0]}?" if near else "."
    raise ConfigError(f"There is no run in {path} (no {CONFIG}){hint}")


def _is_finished(run: RunDirectory, program: str) -> bool:
    """Whether a run has nothing left to do; warns where it begins anew.

    Raises:
        CheckpointError: If all of its checkpoints are damaged: refused before any actor starts.
        ConfigError: If it has done more than it is asked for.
    """
    if not checkpoint.list_all(run.checkpoints):
        if run.metrics():
            log.warning("There are no checkpoints in %s, so the run starts over.", run.checkpoints)
        return False
    done, asked = checkpoint.verify(checkpoint.newest(run.checkpoints)), run.config.iterations
    if done > asked:
        raise ConfigError(
            f"The run in {run.path} has done {counted(done, 'iteration')}; iterations={asked} cannot be reached."
        )
    if done < asked and (rule := stopped_by(run.config, run, done)):
        print(
            f"{run.path} was ended by its guard (guard.rules.{rule}) after {counted(done, 'iteration')}; to go on all "
            f"the same, {program} --resume {run.path} guard.rules.{rule}.stop=false"
        )
        return True
    if done < asked or not run.evaluated(done):
        return False
    print(
        f"{run.path} is finished: it has done its {counted(done, 'iteration')}; for more, "
        f"{program} --resume {run.path} iterations={2 * done}"
    )
    return True


def _last_words(asked: signal.Signals | None, run: RunDirectory | None, program: str) -> str:
    """The last line of a run that cannot wait for Ray."""
    said = f"stopped by {asked.name}" if asked else "error: Ray has died on this machine"
    return said + _how_to_go_on(run, program)


def _how_to_go_on(run: RunDirectory | None, program: str) -> str:
    if run is None or not run.begun:
        return " before the run began; nothing is left of it"
    if not checkpoint.list_all(run.checkpoints):
        return f"; continue with: {program} --resume {run.path}"
    return f" at {checkpoint.newest(run.checkpoints)}; continue with: {program} --resume {run.path}"


def _describe(config: Config, run: RunDirectory, console: Console) -> None:
    rewards = ", ".join(
        f"{n} (weight {config.weights[n]:g})" if config.weights.get(n) else f"{n} (watched)" for n in config.rewards
    )
    lines = [
        f"{run.path}: {counted(config.iterations, 'iteration')} of {config.objective.name}, each {_batch(config)} = "
        f"{counted(config.batch_size, 'image')} in requests of {config.samplers.request_size}; "
        f"{counted(config.samplers.count, 'sampler')}; rewards {rewards}",
        *filter(None, [_zero(config), leaves_out(config)]),
    ]
    console.print(*map(shown, lines), sep="\n", markup=False, highlight=False, soft_wrap=True)


def _batch(config: Config) -> str:
    """What an iteration has, in words."""
    if (data := config.data) is None:
        return f"{counted(config.prompts_per_iteration, 'prompt')} x {counted(config.prompts.samples, 'sample')}"
    split = f" ({data.split})" if data.split else ""
    return f"{counted(data.pairs, 'pair')} of {data.path}{split}, labelled by {data.labels},"


def _zero(config: Config) -> str | None:
    """What the combined reward is measured from, which its figures do not show."""
    if config.combination.whiten or config.standardise in ("group", "group_mean", "batch"):
        return "the combined reward is measured from the mean of its group or batch, so an iteration's is always 0"
    if config.standardise == "nothing":
        return None
    return f"the combined reward is measured from the mean of its {config.standardise} so far: at first it is 0"


def _check_prompts(config: Config, crew: Crew) -> None:
    """Hold prompts to a model that had to be fetched; of others it is done when the configuration is read."""
    if not is_local(config.pipeline):
        for source in filter(None, (config.prompts.train, config.prompts.held_out)):
            crew.learner.check_prompts(read_prompts(source))


def _work(config: Config, crew: Crew) -> str:
    updates, transitions, published = crew.learner.work(config.prompts_per_iteration, config.samples_per_prompt)
    size = config.learner.micro_batch
    at_a_time = "as many at a time as fit" if size == "auto" else f"{size} at a time"
    steps = f"{counted(updates, 'optimizer step')} of up to {counted(transitions, 'transition')}"
    return f"an iteration is {steps}, {at_a_time}; it publishes {published / 1e6:,.2g} MB of weights"


def _supervise(
    config: Config,
    run: RunDirectory,
    place: Callable[[Config], Placement],
    console: Console,
    command: Sequence[str],
) -> None:
    """Train, with a new crew from the last checkpoint when something was lost that cannot be replaced alone."""
    needs = estimate(config, torch.cuda.is_available() or config.learner.gpus > 0)
    console.print(*(need.line() for need in needs), sep="\n", markup=False, highlight=False, soft_wrap=True)
    placement = place(config)
    if placement.report:
        console.print(placement.report, markup=False, highlight=False, soft_wrap=True)
    check_room(config, needs, placement)
    with Display(console, config.iterations, telemetry=Telemetry(run.path.name)) as display:
        display.status("starting")
        furthest, losses, restarts = run.furthest, 0, 0
        while True:
            crew = assemble(config, placement)
            try:
                with at_once():
                    wait_for(crew, config, again=restarts > 0)
                    if not restarts:
                        _check_prompts(config, crew)
                        display.note(_work(config, crew))
                        display.note(crew.learner.steps())
                        run.begin()
                        note_start(run.path, command, machines())
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
