"""Numbers that nothing can be done with are refused by their key, however deep they are."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config.numbers import check_numbers


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"a": {"b": [1, float("nan")]}}, r"'a\.b\.1' is nan"),
        ({"a": float("inf")}, "'a' is inf, which is not a finite number"),
        ({"a": 1e300}, r"'a' is 1e\+300, outside of what single precision can hold"),
        ({"a": {"b": -1e-44}}, r"'a\.b' is -1e-44, outside of"),
        ({"a": ({"b": -(2**70)},)}, r"'a\.0\.b' is a number of 71 bits"),
    ],
)
def test_the_key_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_numbers(settings)


def test_all_others_pass() -> None:
    check_numbers(
        {
            "a": [2**63 - 1, -(2**63) + 1, 3e38, -1e-37, True, "nan", None],
            "b": {},
            "rewards": {"mine": {"options": {"x": [1e300]}}},
        }
    )
