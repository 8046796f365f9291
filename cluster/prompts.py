"""Prompts: reading a list, and which an iteration asks for (a pure function, so a resumed run asks the same)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import shapes
from actors.trajectories import EVALUATION, Request

_EMBEDDED = {f"shapes:{path.stem}": path for path in (Path(shapes.__file__).parent / "prompts").glob("*.txt")}


def read_prompts(source: str) -> tuple[str, ...]:
    """The prompts of a UTF-8 text file, one a line (blank lines do not count), or of an embedded list.

    Raises:
        ValueError: If there is no such file, it is not UTF-8 or it holds no prompt.
    """
    path = _EMBEDDED.get(source, Path(source))
    try:
        prompts = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"the prompt file {path} is not UTF-8 (byte {error.start})") from error
    except OSError as error:
        known = ", ".join(sorted(_EMBEDDED))
        raise ValueError(
            f"the prompt file {path} cannot be read ({error.strerror}); embedded lists are {known}"
        ) from error
    if not prompts:
        raise ValueError(f"the prompt file {path} holds no prompt")
    return prompts


def prompts_of(prompts: tuple[str, ...], iteration: int, count: int, seed: int) -> tuple[str, ...]:
    """The `count` prompts of an iteration: consecutive slices of an endless list that shuffles every pass anew."""
    if count == len(prompts):
        return prompts
    chosen = []
    for position in range(iteration * count, (iteration + 1) * count):
        epoch, offset = divmod(position, len(prompts))
        chosen.append(prompts[np.random.default_rng([seed, epoch]).permutation(len(prompts))[offset]])
    return tuple(chosen)


def make_requests(
    prompts: tuple[str, ...],
    samples: int,
    size: int,
    *,
    seed: int,
    iteration: int = EVALUATION,
    stored_steps: tuple[int, ...] = (),
    share_init_noise: bool = False,
) -> list[Request]:
    """Cut prompts x samples, in that order, into requests of `size` samples (the last may be smaller)."""
    rows = [(prompt, index, sample) for index, prompt in enumerate(prompts) for sample in range(samples)]
    requests = []
    for start in range(0, len(rows), size):
        texts, indices, numbers = zip(*rows[start : start + size], strict=True)
        requests.append(Request(seed, iteration, texts, indices, numbers, stored_steps, share_init_noise))
    return requests
