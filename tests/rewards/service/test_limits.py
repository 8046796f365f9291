"""Limits are numbers in their range, and the memory that they promise follows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.service.limits import LONGEST, MIB, Limits

SECONDS = {"max_wait": "--max-wait-ms", "drain_seconds": "--drain-seconds", "reply_seconds": "--reply-seconds"}
COUNTS = {"max_images": "--max-batch", "max_requests": "--max-requests", "max_message_bytes": "--max-message-mib"}


@given(
    st.sampled_from(sorted(SECONDS)),
    st.sampled_from([float("nan"), float("inf"), float("-inf")])
    | st.floats(max_value=-1e-9, allow_nan=False)
    | st.floats(min_value=LONGEST, exclude_min=True, allow_nan=False),
)
def test_seconds_that_nobody_can_wait_are_refused_by_the_options_name(field: str, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"{SECONDS[field]} is .*from 0 to") as error:
        Limits(**{field: seconds})
    assert "\n" not in str(error.value)


@given(st.sampled_from(sorted(COUNTS)), st.integers(max_value=0) | st.integers(min_value=2**31))
def test_counts_out_of_range_are_refused_by_the_options_name(field: str, count: int) -> None:
    with pytest.raises(ValueError, match=f"{COUNTS[field]} is .*from 1 to"):
        Limits(**{field: count})


@given(st.integers(1, 65_536), st.integers(1, 1024), st.booleans())
def test_the_promise_holds_every_request_and_grows_with_each(requests: int, mib: int, gradients: bool) -> None:
    def promise(requests: int, mib: int) -> int:
        return Limits(max_requests=requests, max_message_bytes=mib * MIB).memory(gradients=gradients)

    assert promise(requests, mib) >= requests * mib * MIB
    if requests < 65_536:
        assert promise(requests + 1, mib) == promise(requests, mib) + mib * MIB
    assert promise(requests, mib) == mib * promise(requests, 1)


def test_the_largest_reply_fits_and_gradients_take_more() -> None:
    limits = Limits()
    assert limits.reply_bytes >= 2 * 4 * limits.max_message_bytes
    assert limits.memory(gradients=True) > limits.memory(gradients=False) + limits.reply_bytes
