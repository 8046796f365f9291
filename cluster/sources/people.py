"""Batches that wait for people: pairs of samples are put before them, and what they choose are the batch's scores.

The pictures are written by the driver, because the run's folder is where it is, request by request. Everything else is
files (`rewards.people`): the page is a process of its own, that may be stopped, started again, or never come.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import ray
from PIL import Image

from cluster.errors import NobodyChose, RunStopped
from cluster.sources.answers import Answers
from cluster.sources.rollouts import Rollout
from cluster.sources.source import Progress, Source, unseen
from rewards.people import choices
from rewards.people.choices import BOTH_BAD
from rewards.people.live import Batches, Label, settle
from rewards.people.questions import PICTURES, Question, keep_picture
from rewards.people.reward import People

_LOOK = 0.5  # seconds between two looks at what has been chosen
_UNSEEN = 4  # of 255 levels, the mean difference of a picture from itself drawn again, as on another kind of GPU


class Asked:
    """A source whose batches are scored by people, in groups of two samples.

    A picture's score is the share of the votes for it, so that the two of a pair have 1 together; those of a pair that
    nobody chose between, or that is bad on both sides, have NaN.

    Args:
        source: Has the batches drawn, each a whole number of pairs.
        people: How many pairs to wait for, and how long.
        name: Of the reward.
        run: The run's folder.
        say: Shows a line to whoever looks at the run.
        progress: Is told how many of how many pairs are chosen.
    """

    def __init__(
        self, source: Source, people: People, name: str, run: Path, say: Callable[[str], None], progress: Progress
    ) -> None:
        self._source, self._people, self._name, self._run = source, people, name, run
        self._say, self._progress = say, progress
        self._batches = Batches(run / "people")
        self._invited = False

    def batch(self, version: int, progress: Progress = unseen) -> list[Rollout]:
        """See `Source`; returns when enough pairs are chosen, or the time is over.

        Raises:
            NobodyChose: If no pair is chosen by then.
            RunStopped: If there is no pair to choose between.
            Damaged: If a file of choices says something else.
            NotKept: If questions or pictures cannot be written.
        """
        batch = self._source.batch(version, progress)
        drawn = self._questions(batch)
        labels = self._batches.labels(version)
        asked = self._batches.asked(version) or {}
        others = {number for number, own in asked.items() if not self._same(own, drawn.get(number))}
        if others:
            self._say(
                f"{len(others)} of the {len(asked)} pairs of iteration {version + 1} have other pictures than when "
                "people were asked; what was chosen of those is not trained on"
                + (", and people are asked about the new ones" if labels is None else "")
            )
        if labels is None:
            # After a driver was killed, the questions that are out already, but for those of pictures that are gone.
            self._batches.ask(version, drawn, others)
            labels, others = self._wait(version), set()
            self._batches.settle(version, labels)
        else:
            self._batches.close(version)  # where the driver was killed before it had
        asked = self._batches.asked(version) or {}
        return [_scored(rollout, self._name, labels, set(asked), others) for rollout in batch]

    def _same(self, asked: Question, drawn: Question | None) -> bool:
        """Whether the pictures that were asked about are those that are drawn, as far as a person can tell."""
        if drawn is None or asked.sets == drawn.sets:
            return drawn is not None
        pictures = [[self._picture(name) for (name,) in question.sets] for question in (asked, drawn)]
        return all(
            one.shape == other.shape and np.abs(one - other).mean() <= _UNSEEN
            for one, other in zip(*pictures, strict=True)
        )

    def _picture(self, name: str) -> np.ndarray:
        with Image.open(self._batches.folder / PICTURES / name) as image:
            return np.asarray(image, np.float32)

    def _questions(self, batch: Sequence[Rollout]) -> dict[int, Question]:
        """The questions of a batch, by group; pairs of a picture that is not finite, or of equal ones, have none."""
        names: dict[int, list[str]] = {}
        prompts: dict[int, str] = {}
        for rollout in batch:
            pixels = ray.get(rollout.pixels)
            missing = {int(row) for row in np.nonzero(np.ma.getmaskarray(pixels))[0]}
            for row, group in enumerate(rollout.request.prompt_index):
                if row not in missing:
                    prompts[group] = str(rollout.request.prompts[row])
                    Image.fromarray(np.ma.getdata(pixels)[row]).save(file := BytesIO(), "PNG")
                    names.setdefault(group, []).append(keep_picture(self._batches.folder, file.getvalue()))
        return {
            group: Question(prompts[group], tuple((name,) for name in own))
            for group, own in names.items()
            if len(set(own)) == 2
        }

    def _wait(self, version: int) -> dict[int, Label]:
        """The labels of a batch's pairs, once there are enough of them."""
        asked = self._batches.asked(version)
        if not asked:
            raise RunStopped(
                f"Iteration {version + 1} has no pair of two different pictures that people could choose between; look "
                "at what the model draws (cluster.generate)."
            )
        enough = min(self._people.pairs or len(asked), len(asked))
        page, patience = f"python -m cluster.label {shlex.quote(str(self._run))}", self._people.patience
        if not self._invited:
            self._invited = True
            self._say(f"{len(asked)} pairs wait for people to choose between them: {page}")
        deadline = time.monotonic() + (math.inf if patience is None else patience)
        while True:
            settled = settle(choices.read(self._batches.folder))
            labels = {number: settled[own.id] for number, own in asked.items() if own.id in settled}
            chosen = sum(label != BOTH_BAD for label in labels.values())
            self._progress(chosen, enough)
            if chosen >= enough or len(labels) == len(asked):
                return labels
            if time.monotonic() >= deadline:
                break
            time.sleep(_LOOK)
        over = f"in {patience:g} s (rewards.{self._name}.options.patience)"
        if not chosen:
            raise NobodyChose(
                f"Nobody has chosen between any of the {len(asked)} pairs of iteration {version + 1} {over}; they stay "
                f"open for whoever comes ({page}), and the run goes on with --resume {self._run}."
            )
        self._say(f"{chosen} of the {enough} pairs of iteration {version + 1} were chosen {over}; it trains on those")
        return labels


def _scored(rollout: Rollout, name: str, given: Mapping[int, Label], asked: set[int], others: set[int]) -> Rollout:
    """A rollout with the scores that its pairs' labels are, and with what became of the pairs that begin in it.

    Args:
        rollout: Without them.
        name: Of the reward.
        given: Labels by group.
        asked: Groups that people were asked about.
        others: Of those the ones that have other pictures now, whose labels do not count.
    """
    labels = {group: label for group, label in given.items() if group not in others}
    places = list(zip(rollout.request.prompt_index, rollout.request.sample_index, strict=True))
    shares = [(sample, labels.get(group, BOTH_BAD)) for group, sample in places]
    scores = [math.nan if isinstance(share, str) else 1 - share if sample else share for sample, share in shares]
    begin = [group for group, sample in places if not sample]
    discarded = len((given.keys() & others).intersection(begin))
    answers = Answers.of([labels.get(group) for group in begin], len(asked.intersection(begin)), discarded)
    return replace(rollout, scores={**rollout.scores, name: np.array(scores, np.float32)}, answers=answers)
