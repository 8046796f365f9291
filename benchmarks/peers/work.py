"""What every side does and what it answers, and the loop that answers: read by any environment's Python."""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook


@dataclass(frozen=True)
class Work:
    """An update: so many pictures drawn and judged, and one optimizer step over all of their transitions."""

    words: Sequence[str]  # of a command line, of which the rest was made: what our side reads
    pipeline: str  # folder
    prompts: Sequence[str]  # (B,) one a picture
    tokens: Sequence[Sequence[int]]  # (B, L) of each prompt, as our tokenizer reads them
    text: Sequence[float]  # (L D,) of the first prompt, as our text encoder embeds it
    steps: int
    guidance: float
    rank: int
    alpha: int
    lr: float
    weight_decay: float
    max_grad_norm: float
    clip_range: float
    max_advantage: float
    beta: float  # of Diffusion-DPO's margin, in which errors count half
    seed: int


@dataclass(frozen=True)
class Round:
    """Some updates of one side."""

    seconds: tuple[float, ...]  # of each
    judging: float  # seconds of each that the reward took; NaN where that was not timed
    images: int  # an update: pictures that were judged
    evaluations: int  # an update: rows that the denoiser was given, two for a guided prediction
    optimizer_steps: int  # an update


# What is counted of an update, by the field of `Round`.
COUNTS = {"images": "judged images", "evaluations": "network evaluations", "optimizer_steps": "optimizer steps"}


class Unlike(ValueError):
    """Updates that were to do the same and did not; the message is one sentence for the user."""


class Tally:
    """Counts what one side does."""

    def __init__(self) -> None:
        self.images = self.evaluations = self.optimizer_steps = 0
        self.judging = 0.0
        register_optimizer_step_post_hook(self._stepped)

    @property
    def counts(self) -> tuple[int, int, int]:
        """In the order of `COUNTS`."""
        return self.images, self.evaluations, self.optimizer_steps

    def watch(self, denoiser: nn.Module) -> None:
        """Count the rows that a denoiser is given."""
        denoiser.register_forward_pre_hook(self._entered, with_kwargs=True)

    def judged(self, score: Callable[..., Any]) -> Callable[..., Any]:
        """A reward of `(images, prompts, ...)` whose images and seconds are counted."""

        def counted(images: Any, prompts: Sequence[str], *rest: Any) -> Any:
            started = time.perf_counter()
            scores = score(images, prompts, *rest)
            self.judging += time.perf_counter() - started
            self.images += len(images)
            return scores

        return counted

    def _entered(self, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.evaluations += len(given[0] if given else named["sample"])

    def _stepped(self, *_: object) -> None:
        self.optimizer_steps += 1


class Side(ABC):
    """A trainer, ready to work.

    Args:
        work: What to do.
        micro_batch: Transitions, or pairs, that go through the network at a time.
        tally: Is to see the denoiser and the reward.
    """

    micro_batches: Sequence[int]  # of which the fastest is taken
    warm_up = 1  # first updates that do not count: caches

    @abstractmethod
    def __init__(self, work: Work, micro_batch: int, tally: Tally) -> None: ...

    @abstractmethod
    def update(self) -> None:
        """Draw pictures, judge them, learn from them."""


def alike(who: str, counts: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """What each of some updates did.

    Args:
        who: What was to be alike, in the plural and as a sentence begins.
        counts: Of each, in the order of `COUNTS`.

    Raises:
        Unlike: If it was not the same each time.
    """
    different = list(dict.fromkeys(counts))
    if not different:
        raise Unlike(f"{who} are not there: none was recorded.")
    first, *others = different
    if others:
        one, another = (
            ", ".join(f"{count:,} {called}" for count, called in zip(of, COUNTS.values(), strict=True))
            for of in (first, others[0])
        )
        raise Unlike(f"{who} were not alike: one had {one}, another {another}.")
    return first


def measure(side: Side, tally: Tally, updates: int) -> Round:
    """Updates of a side, timed and counted.

    Raises:
        Unlike: If they did not all do the same.
    """
    judged, seconds, counts = tally.judging, [], []
    for _ in range(updates):
        before, began = tally.counts, time.perf_counter()
        side.update()
        seconds.append(time.perf_counter() - began)
        counts.append(tuple(after - first for first, after in zip(before, tally.counts, strict=True)))
    return Round(tuple(seconds), (tally.judging - judged) / updates, *alike("Updates of one side", counts))


def answer(kind: type[Side], train: Callable[[Work, float, Path], None] | None = None) -> None:
    """Be a side's process: read its work, say which micro-batches there are, then answer lines until there are no more.

    The first line is a `Work`. `prepare MICRO_BATCH` makes the side, once: libraries keep a state of the process (how
    many passes accelerate gathers into a step), so one process is of one micro-batch. `round UPDATES` is answered with
    a `Round`, `prepare` and `train SECONDS FOLDER` with null; an answer comes when what was asked for is done.

    Args:
        kind: The side.
        train: For so many seconds at the side's own defaults; writes adapters into a folder.
    """
    work, tally = Work(**json.loads(sys.stdin.readline())), Tally()
    side: Side | None = None
    _say(kind.micro_batches)
    for line in sys.stdin:
        verb, *words = line.strip().split(maxsplit=2)  # a folder may have spaces in its path
        if verb == "prepare" and side is None:
            side = kind(work, int(words[0]), tally)
            for _ in range(kind.warm_up):
                side.update()
            _say(None)
        elif verb == "round" and side is not None:
            try:
                found = measure(side, tally, int(words[0]))
            except Unlike as error:
                raise SystemExit(f"error: {error}") from error
            _say(asdict(found))
        elif verb == "train" and train is not None:
            train(work, float(words[0]), Path(words[1]))
            _say(None)
        else:
            raise SystemExit(f"error: This side has no answer to {line.strip()!r} now.")


def _say(what: Any) -> None:
    print("answer", json.dumps(what), flush=True)
