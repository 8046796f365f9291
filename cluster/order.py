"""What `cluster.generate` is asked for: requests whose rows become files, each with what to write into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from actors.config import PolicyConfig
from actors.trajectories import EVALUATION, Request
from cluster.config import change_policy
from cluster.errors import ConfigError
from cluster.prompts import make_request, make_requests
from cluster.records.png import read_facts
from cluster.start_images import check_starts, image_of
from cluster.trained import Trained, checksum
from rewards.prompt import Prompt


@dataclass(frozen=True)
class Job:
    """Rows of a request that become files."""

    request: Request
    rows: tuple[int, ...]
    base: bool  # with the adapter off

    def name(self, row: int) -> str:
        """Of the file of a row."""
        request = self.request
        end = "-base" if self.base else ""
        return f"{request.prompt_index[row]:04d}-{request.seed}-{request.sample_index[row]:02d}{end}.png"


class Picture(NamedTuple):
    """One file that is to be."""

    name: str
    facts: dict[str, Any]  # how it is made, as JSON has it
    job: Job
    row: int  # of the job's request


class _Start(BaseModel, strict=True):
    """The picture that one begins from."""

    image: str
    strength: float = Field(gt=0, le=1)
    sha256: str


class _Facts(BaseModel, strict=True):
    """What a picture's file says, beside the settings of its policy."""

    prompt: str
    start: _Start | None
    seed: int = Field(ge=0, lt=2**32)
    prompt_index: int = Field(ge=0, lt=2**31)
    sample: int = Field(ge=0, lt=2**31)
    batch: list[int] = Field(min_length=2, max_length=2)  # rows, and which of them it is
    checkpoint: str | None
    sha256: str | None
    base: bool


@dataclass(frozen=True)
class Order:
    """What is to be drawn, and by whom; goes through its pictures."""

    model: Trained
    jobs: tuple[Job, ...]

    def __iter__(self) -> Iterator[Picture]:
        for job in self.jobs:
            for row in job.rows:
                yield Picture(job.name(row), self._facts(job, row), job, row)

    def __len__(self) -> int:
        return sum(len(job.rows) for job in self.jobs)

    def _facts(self, job: Job, row: int) -> dict[str, Any]:
        request = job.request
        return {
            "prompt": str(request.prompts[row]),
            "start": _start(request.prompts[row]),
            "seed": request.seed,
            "prompt_index": request.prompt_index[row],
            "sample": request.sample_index[row],
            "batch": [len(request.prompts), row],
            "checkpoint": None if self.model.checkpoint is None else str(self.model.checkpoint),
            "sha256": self.model.checksum,
            "base": job.base,
            "policy": self.model.policy.model_dump(mode="json"),
        }


def make_order(
    model: Trained, prompts: Sequence[str], seeds: Sequence[int], samples: int, batch: int, base: bool
) -> Order:
    """Every prompt, from every seed, so many times; with `base` the pretrained model's beside each."""
    requests = [
        request
        for seed in seeds
        for request in make_requests(
            tuple(prompts), samples, batch, seed=seed, iteration=EVALUATION, most=None, steps=model.policy.steps
        )
    ]
    off = (False, True) if base else (False,)
    return Order(model, tuple(Job(r, tuple(range(len(r.prompts))), is_off) for r in requests for is_off in off))


def repeat_order(picture: Path, settings: Sequence[str] = ()) -> Order:
    """The order that a picture of an earlier one is made again by.

    Its neighbours in the batch are replaced by itself: its pixels depend on how many there are, and on no more.

    Args:
        picture: Its file.
        settings: `key=value` of the policy that are to differ.

    Raises:
        ConfigError: If the file does not say how it was made, or what made it is not what it was.
    """
    try:
        found = read_facts(picture)
        facts = _Facts.model_validate(found)
        size, row = facts.batch
        if not 0 <= row < size:
            raise ValueError(f"says that it is number {row} of a batch of {size}")
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(f"The picture {picture} does not say all of how it was made ({where}).") from error
    except ValueError as error:
        raise ConfigError(f"The picture {picture} {error}.") from error
    try:
        made = PolicyConfig.model_validate(found.get("policy"))
        changed = change_policy(made.model_dump(), settings)
    except ValidationError:
        raise ConfigError(f"The picture {picture} was made by another version, whose settings are not known.") from None
    start = None if facts.start is None else facts.start.model_dump()
    prompt = Prompt(facts.prompt, start)
    try:
        check_starts([prompt], changed.steps)
        if _start(prompt) != start:
            raise ValueError(f"it began with {image_of(prompt)}, which is another picture now")
    except ValueError as error:
        raise ConfigError(f"The picture {picture} cannot be made again: {error}.") from error
    alone = make_request(lambda _: prompt, [0], 1, facts.seed, EVALUATION, steps=changed.steps)
    request = replace(
        alone, prompts=(prompt,) * size, prompt_index=(facts.prompt_index,) * size,
        sample_index=(facts.sample,) * size, start=alone.start and tuple(alone.start) * size,
    )  # fmt: skip
    folder, base = facts.checkpoint, facts.base
    model = Trained(picture.stem, changed, None if folder is None else Path(folder))
    if (changed.init_lora, changed.init_weights) == (made.init_lora, made.init_weights):
        try:
            now = model.checksum
        except FileNotFoundError as error:
            raise ConfigError(f"The picture {picture} cannot be made again: {error}") from error
        if now != facts.sha256:
            raise ConfigError(f"The picture {picture} was made with {model.adapter}, which is another adapter now.")
    return Order(model, (Job(request, (row,), base),))


def _start(prompt: str) -> dict[str, Any] | None:
    """What a picture's file says of the picture that it begins from."""
    if (path := image_of(prompt)) is None:
        return None
    strength: float = prompt.metadata["strength"]  # type: ignore[attr-defined]
    return {"image": str(path), "strength": strength, "sha256": checksum(path)}
