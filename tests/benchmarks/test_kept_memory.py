"""What keeping freed memory is worth: two real processes, one of which is not told to keep it."""

from __future__ import annotations

import re

import pytest
import torch

from actors.policy import Policy
from benchmarks import kept_memory
from cluster.config import load_words


def test_both_processes_answer_for_every_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kept_memory, "SIZES", (96,))
    monkeypatch.setattr(kept_memory, "ROUNDS", 1)
    assert kept_memory.main(["--threads", "1"]) == 0
    said = capsys.readouterr().out
    line = r"  96 at a time through the {}: kept (.+) s, given back (.+) s, ratio (.+)\n"
    for through in ("network", "decoder"):
        found = re.search(line.format(through), said)
        assert found, said
        kept, given_back, ratio = map(float, found.groups())
        assert kept > 0 < given_back
        assert ratio == pytest.approx(given_back / kept, rel=0.05)
    ends = re.findall(r"(kept|given back): (\d+) MiB at its largest, ([\d,]+) page faults\n", said)
    assert [side for side, *_ in ends] == ["kept", "given back"]
    assert all(int(size) > 100 for _, size, _ in ends)
    kept_faults, given_faults = (int(faults.replace(",", "")) for *_, faults in ends)
    assert kept_faults < given_faults


def test_pictures_go_in_parts_that_are_as_large_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_words([])
    policy = Policy.load(config.policy.model_copy(update={"model": config.pipeline}))
    before = policy.evaluations
    monkeypatch.setattr(kept_memory, "PICTURES", 6)
    sizes: list[int] = []
    decode = policy.decode

    def noted(latents: torch.Tensor) -> torch.Tensor:
        sizes.append(len(latents))
        return decode(latents)

    monkeypatch.setattr(policy, "decode", noted)
    kept_memory.seconds(policy, 4)
    assert sizes == [4, 2]
    assert policy.evaluations - before == 6 * policy.passes
