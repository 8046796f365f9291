"""Numbers that nothing can be done with: not a number, infinite, beyond what a computer counts with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

_LEAST, _MOST = 1e-37, 3e38  # of float32, rounded inwards


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Raises `ValueError` with the key of the first number that is not one in float32, or has more than 63 bits.

    A reward's own options may be beyond float32.
    """
    for key, value in _leaves(settings):
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"the setting {key!r} is {value}, which is not a finite number")
        theirs = key.startswith("rewards.") and ".options." in key  # a reward may count as it likes
        if isinstance(value, float) and value and not theirs and not _LEAST <= abs(value) <= _MOST:
            raise ValueError(
                f"the setting {key!r} is {value}, outside of what single precision can hold ({_LEAST:.0e} to "
                f"{_MOST:.0e})"
            )
        if isinstance(value, int) and value.bit_length() > 63:
            raise ValueError(f"the setting {key!r} is a number of {value.bit_length()} bits, more than 63")


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{key}.{number}")
    else:
        yield key, value
