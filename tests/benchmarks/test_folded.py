"""What folding LoRA is worth: both forms are timed in turns, at widths that a policy would not fold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from actors import folded as acting
from benchmarks import folded


@pytest.fixture
def threads() -> Iterator[None]:
    """Gives the process its threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_forms_are_timed_where_a_policy_would_not_fold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folded, "WIDTHS", (8, 16))
    monkeypatch.setattr(folded, "RANKS", (2,))
    monkeypatch.setattr(folded, "_NUMBERS", 1)
    monkeypatch.setattr(acting, "SMALL", 4)
    said: list[tuple[str, Tensor]] = []

    def noted(name: str, form: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward(*given: object) -> Tensor:
            assert acting.SMALL == 16 * 16
            said.append((name, form(*given)))
            return said[-1][1]

        return forward

    monkeypatch.setattr(folded, "FORMS", {name: noted(name, form) for name, form in folded.FORMS.items()})
    assert folded.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["8 to 8, rank 2", "16 to 16, rank 2"]
    assert all(re.fullmatch(r"[^:]+: forward \d+\.\d\d, both ways \d+\.\d\d", line) for line in lines)
    assert [name for name, _ in said] == ["peft", "peft", "folded", "folded"] * (1 + folded.ROUNDS) * 2
    assert said[0][1] == pytest.approx(said[2][1])
    assert acting.SMALL == 4
