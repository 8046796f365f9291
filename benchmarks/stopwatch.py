"""Where a function's time goes, by the functions that it calls."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import torch


def synchronised_time(device: torch.device) -> float:
    """The time in seconds, by `time.perf_counter`, once a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Stopwatch:
    """Measures functions while they are watched. What happens within one that is watched is that one's.

    Args:
        device: That they compute on.

    Attributes:
        seconds: By label, in the order in which they were first called.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device, self._inside = device, False

    @contextmanager
    def on(self, owner: Any, name: str, label: str | Callable[[], str]) -> Iterator[None]:
        """Watch a function within the block.

        Args:
            owner: The module, class or object that it is an attribute of.
            name: Of the attribute.
            label: What its time counts as; or what says so when it is called.
        """
        original = getattr(owner, name)

        @wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return original(*args, **kwargs)
            what, self._inside = label if isinstance(label, str) else label(), True
            began = synchronised_time(self._device)
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[what] += synchronised_time(self._device) - began
                self._inside = False

        with mock.patch.object(owner, name, timed):
            yield
