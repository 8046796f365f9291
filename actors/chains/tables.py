"""What a solver's function returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Tables(NamedTuple):
    """The weights of each step, `(T,)` float64."""

    of_state: Tensor  # of x_t
    of_clean: Tensor  # of the image that is predicted at x_t
    std: Tensor  # of the noise that is added
    of_previous: Tensor | None = None  # of the image that was predicted one step before; `None`: nowhere
