"""What a run that trains on people's choices asks of them, batch by batch, and what each batch was trained on.

    batches.jsonl      batch, asked: the question of each pair of the batch, by the pair's number in it
                       (the batch's last such line is what is asked)
                       batch, labels: how each pair was settled, before the batch was trained on

So a run that was killed while it waited goes on with the questions that are out, and one that goes back to an earlier
checkpoint trains on what it had trained on, whatever was chosen since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from rewards.people import questions
from rewards.people.choices import BOTH_BAD, Choice
from rewards.people.lines import Damaged, Journal, read_lines
from rewards.people.questions import Question

FILE = "batches.jsonl"
TIE = 0.5
Label = float | str  # of a pair: the share of the votes for its first picture, or that both are bad


def settle(votes: Iterable[Choice]) -> dict[str, Label]:
    """What raters have made of each question, by its id; a question that nobody has answered is not there.

    Each rater has one vote a question, the first time that it is asked. A tie is half a vote for each picture. Both are
    bad where half of the raters say so, or more; otherwise these do not count.
    """
    cast: dict[str, list[Label]] = defaultdict(list)
    for choice in votes:
        if choice.round == 0 and len(choice.sets) == 2:
            label = TIE if choice.winner is None else float(choice.winner == 0)
            cast[choice.question].append(BOTH_BAD if choice.choice == BOTH_BAD else label)
    settled: dict[str, Label] = {}
    for question, labels in cast.items():
        shares = [label for label in labels if isinstance(label, float)]
        settled[question] = sum(shares) / len(shares) if 2 * len(shares) > len(labels) else BOTH_BAD
    return settled


class Batches:
    """The questions and labels of a run's batches.

    Args:
        folder: Of the questions, which the run's driver alone adds batches to.

    Raises:
        Damaged: If the file says something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked: dict[int, dict[int, Question]] = {}
        self._labels: dict[int, dict[int, Label]] = {}
        for record in read_lines(folder / FILE)[0]:
            self._take(record)

    def asked(self, batch: int) -> Mapping[int, Question] | None:
        """The questions of a batch by the numbers of its pairs, if it has been asked about."""
        return self._asked.get(batch)

    def labels(self, batch: int) -> Mapping[int, Label] | None:
        """The labels of a batch by the numbers of its pairs, if it is settled."""
        return self._labels.get(batch)

    def ask(self, batch: int, pairs: Mapping[int, Question], others: Collection[int] = ()) -> None:
        """Ask about a batch; what has been asked about already stays as it is, and is open again if need be.

        Args:
            batch: Its number.
            pairs: The question of each pair, by the pair's number; their pictures are there.
            others: Numbers of pairs that have other pictures than when they were asked about: the questions of then are
                closed, and those of now asked, as is a pair that had no question.

        Raises:
            NotKept: If it cannot be written.
        """
        known = self._asked.get(batch)
        if known is None:
            self._note(batch, {}, pairs)
        elif others or pairs.keys() - known.keys():
            questions.close(self.folder, [known[number].id for number in others])
            kept = {number: question for number, question in known.items() if number not in others}
            self._note(batch, kept, {number: question for number, question in pairs.items() if number not in kept})
        questions.offer(self.folder, self._asked[batch].values(), again=True)

    def settle(self, batch: int, labels: Mapping[int, Label]) -> None:
        """Keep what a batch is trained on, and ask no more about it.

        Args:
            batch: Its number.
            labels: Of its pairs, by their numbers.

        Raises:
            NotKept: If it cannot be written.
        """
        self._write({"batch": batch, "labels": {str(number): label for number, label in labels.items()}})
        self.close(batch)

    def close(self, batch: int) -> None:
        """Ask no more about a batch; raises as `settle`."""
        questions.close(self.folder, [question.id for question in self._asked[batch].values()])

    def _note(self, batch: int, kept: Mapping[int, Question], new: Mapping[int, Question]) -> None:
        """Note what a batch asks, by the numbers of its pairs: what is kept of before, and what is new."""
        before = {question.id for other, own in self._asked.items() if other != batch for question in own.values()}
        before |= {question.id for question in kept.values()}
        asked = dict(kept)
        for number, question in new.items():
            if question.id not in before:  # a choice counts for one pair
                before.add(question.id)
                asked[number] = question
        self._write({"batch": batch, "asked": {str(number): question.record() for number, question in asked.items()}})

    def _write(self, record: Mapping[str, Any]) -> None:
        with Journal(self.folder / FILE, wait=True) as file:
            file.append(record)
        self._take(record)

    def _take(self, record: Mapping[str, Any]) -> None:
        try:
            batch = int(record["batch"])
            if "asked" in record:
                asked = record["asked"].items()
                self._asked[batch] = {int(number): Question.of(question) for number, question in asked}
            else:
                labels = record["labels"].items()
                self._labels[batch] = {
                    int(number): BOTH_BAD if label == BOTH_BAD else float(label) for number, label in labels
                }
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Damaged(f"{self.folder / FILE} has a line that is no batch: {str(dict(record))[:200]}") from None
