"""Whole updates at settings from the field, beside the speed that others report of them: sampler and learner together.

    python -m benchmarks.gpu.updates ddpo_pytorch|miles_diffusion [key=value ...]

The settings are in a file beside this one. Images are drawn, scored and trained on by turns in this process, with
networks of the published sizes and random weights; the first update counts for nothing, of the others medians are
printed. `--overlap` also runs the whole loop through Ray, sampler and learner as two processes on the same device: by
turns, and at once (samplers.max_staleness=1).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gpu import architectures
from benchmarks.overhead import ITERATIONS, whole_loop
from benchmarks.plain import PlainRun
from benchmarks.stopwatch import synchronised_time
from cluster.arguments import Parser
from cluster.config import Config, load_config, read_config
from cluster.errors import ConfigError
from cluster.text import shown

ROUNDS = 2


class Reported(NamedTuple):
    """What is known of a setting."""

    networks: str  # of `architectures.NAMES`
    speed: str


SETTINGS: Mapping[str, Reported] = {
    "ddpo_pytorch": Reported(
        "sd15", ".22 on an A100 (README of ddpo-pytorch: 100 updates of 256 images in about 4 hours on eight)"
    ),
    "miles_diffusion": Reported(
        "sd35", "1.08 on an H200 (pull request 32 of miles_diffusion: 128 images in 59 s on two)"
    ),
}


def configure(name: str, networks: str, folder: Path, words: Sequence[str]) -> Config:
    """A setting's configuration, once its networks are written.

    Args:
        name: Of `SETTINGS`.
        networks: Of `architectures.NAMES`; others than the setting's own draw pictures of their own size.
        folder: Where to write them.
        words: Settings `key=value` that differ.

    Raises:
        ConfigError: In one sentence, whatever is wrong.
    """
    size = () if networks == SETTINGS[name].networks else ("policy.height=null", "policy.width=null")
    path = Path(__file__).with_name(f"{name}.yaml")
    given = [f"policy.model={folder}", f"iterations={1 + ROUNDS}", *size, *words]
    read_config(path, given)  # before gigabytes are written
    architectures.write(networks, folder)
    return load_config(path, given)


def by_turns(config: Config) -> tuple[float, float]:
    """Median seconds in which a batch is drawn and scored, and those in which it is trained on, in this process."""
    run = PlainRun(config)
    drawing, training = [], []
    for number in range(config.iterations):
        began = synchronised_time(run.policy.device)
        batch = run.collate([run.draw(request) for request in run.requests(number)])
        drawn = synchronised_time(run.policy.device)
        run.learner.step(batch)
        drawing.append(drawn - began)
        training.append(synchronised_time(run.policy.device) - drawn)
    return statistics.median(drawing[1:]), statistics.median(training[1:])


def overlap(config: Config) -> tuple[float, float]:
    """Seconds of an iteration of the whole loop, with sampler and learner by turns and at once."""
    of_each = []
    for staleness in (0, 1):
        samplers = config.samplers.model_copy(update={"max_staleness": staleness})
        looped = config.model_copy(update={"samplers": samplers, "iterations": 1 + ITERATIONS})
        of_each.append(whole_loop(looped).seconds)
    return of_each[0], of_each[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = Parser("benchmarks.gpu.updates", __doc__ or "")
    parser.add_argument("name", choices=SETTINGS, help="whose settings")
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings that differ")
    parser.add_argument("--networks", choices=architectures.NAMES, help="whose sizes, instead of the setting's own")
    parser.add_argument("--overlap", action="store_true", help="also the whole loop, by turns and at once; starts Ray")
    args = parser.parse_intermixed_args(arguments)
    reported = SETTINGS[args.name]
    networks = args.networks or reported.networks
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = configure(args.name, networks, Path(folder) / "model", args.words)
        except ConfigError as error:
            parser.exit(1, f"error: {shown(str(error))}\n")
        images = config.batch_size
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(f"{args.name} with {networks} on {device}, torch {torch.__version__}; {images} images an update")
        if args.overlap:  # before this process takes any of the device's memory
            turns, together = overlap(config)
            print(
                f"whole loop: {images / turns:.3g} images/s by turns, {images / together:.3g} at once with "
                f"max_staleness=1, {turns / together:.2f} times as many"
            )
        drawing, training = by_turns(config)
        print(
            f"sampler {images / drawing:.3g} images/s, learner {images / training:.3g}, both by turns "
            f"{images / (drawing + training):.3g}; reported: {reported.speed}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
