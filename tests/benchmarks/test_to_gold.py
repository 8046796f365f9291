"""Time to the same gold score: both sides are judged alike, and a folder of results is gone on with or refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from actors.policy import Policy
from benchmarks.peers import to_gold
from benchmarks.peers.__main__ import main
from benchmarks.peers.to_gold import first_time, verdict
from benchmarks.peers.work import Work
from cluster.config import load_words
from cluster.errors import ConfigError
from tests.support.tiny import write_config

_NOT_WRITTEN = (
    " cannot be written to: Not a directory; see to its disk, then give the command again (a run goes on with "
    "--resume).\n"
)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command line: the smallest run there is."""
    config = write_config(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red circle\nfour blue stars\n")
    return [str(config)]


def test_first_time() -> None:
    seconds, gold = {1: 30.0, 2: 60.0, 3: 90.0}, {1: 0.5, 2: 0.7, 3: 0.6}
    assert first_time(gold, seconds, 0.6) == 60.0
    assert first_time(gold, seconds, 0.4) == 30.0
    assert first_time(gold, seconds, 0.9) is None


@pytest.mark.parametrize(
    ("theirs", "needed", "ratio"),
    [
        ((0.6, 0.7, 0.5), 60, "2.00"),  # no longer than until its last score was first there
        ((0.5, 0.6, 0.5), 120, "4.00"),
        ((0.5, 0.5, 0.5), 210, "7.00"),
        ((), 210, "7.00"),
    ],
)
def test_both_sides_are_held_to_the_first_time(theirs: tuple[float, ...], needed: int, ratio: str) -> None:
    own, seconds, by_minute = {1: 0.6, 2: 0.7}, {1: 30.0, 2: 60.0}, dict(enumerate(theirs, 1))
    said = verdict(by_minute, 0.6, 210.0, own, seconds)
    assert said == f"gold 0.600: theirs {needed} s, ours 30 s, theirs / ours {ratio}"
    said = verdict(by_minute, 0.8, 210.0, own, seconds)
    assert said == "ours does not reach the peer's 0.800 in 60 s"


def test_both_are_judged_by_the_same_seeds(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The peer's adapters are those of our iterations, and come in twice the time."""
    config = load_words(words)
    policy = Policy.load(config.policy)

    def save(folder: Path, size: float) -> None:
        folder.mkdir(parents=True)
        with torch.no_grad():
            for parameter in policy.parameters:
                parameter.fill_(size)
        policy.save_lora(folder)

    class Trainer:
        def train(self, seconds: float, folder: Path) -> None:
            save(folder / "minute-1", 0.1)
            save(folder / "last", 0.2)
            (folder / "epochs.json").write_text(json.dumps({"epochs": 2, "images": 12, "seconds": seconds}))

        def close(self) -> None:
            pass

    def run(settings: list[str], folder: Path) -> None:
        for number in (1, 2):
            save(folder / "ours" / "checkpoints" / f"iteration-{number:06d}", 0.1 * number)
        (folder / "seconds.json").write_text(json.dumps({1: 30.0, 2: 60.0}))

    monkeypatch.setattr(to_gold, "_run", run)
    monkeypatch.setattr(to_gold, "_EACH", 2)
    to_gold.to_gold(lambda _: Trainer(), words, 2.0, tmp_path / "kept")  # type: ignore[arg-type,return-value]
    said = capsys.readouterr().out
    golds = re.findall(r"ours after \d+ s, \d iterations: ([.\d]+)", said)
    assert f"the peer: {golds[0]} after 1 min, {golds[1]} at its end\nthe peer did 2 epochs of 6 images" in said
    assert re.search(r"theirs (60 s, ours 30|120 s, ours 60) s, theirs / ours 2\.00", said)
    load_words(to_gold._WORDS)


class Halves:
    """A trainer of the peer's and a run of ours that write what their ends are told by, and say when they worked."""

    def __init__(self) -> None:
        self.worked: list[str] = []
        self.breaks = False

    def begin(self, _: Work) -> Halves:
        return self

    def close(self) -> None:
        pass

    def train(self, seconds: float, folder: Path) -> None:
        self._write("peer", folder / "last", folder / "epochs.json", {"epochs": 1, "images": 4, "seconds": seconds})

    def run(self, settings: list[str], folder: Path) -> None:
        self._write("ours", folder / "ours", folder / "seconds.json", {"1": 30.0})

    def _write(self, part: str, adapter: Path, end: Path, told: dict[str, float]) -> None:
        self.worked.append(part)
        adapter.mkdir(parents=True)  # fails where a torn one is
        if self.breaks:
            raise ConfigError(f"{part} has broken off.")
        end.write_text(json.dumps(told))


def test_a_folder_is_gone_on_with(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is whole is taken, what broke off is made anew, and a folder of something else is refused."""
    halves, folder = Halves(), tmp_path / "kept"
    monkeypatch.setattr(to_gold, "_run", halves.run)
    monkeypatch.setattr(to_gold, "gold", lambda *_: 0.5)
    monkeypatch.setattr(to_gold, "work_of", lambda _: None)

    def go(*settings: str, minutes: float = 2.0, into: Path = folder) -> list[str]:
        halves.worked = []
        to_gold.to_gold(halves.begin, [*words, *settings], minutes, into)  # type: ignore[arg-type]
        return halves.worked

    halves.breaks = True
    with pytest.raises(ConfigError, match="peer has broken off"):
        go()
    halves.breaks = False
    assert go() == ["peer", "ours"]
    assert go() == []
    (folder / "seconds.json").unlink()
    assert go() == ["ours"]
    (folder / "peer" / "epochs.json").unlink()
    assert go() == ["peer"]
    for other in (lambda: go("learner.lr=1e-5"), lambda: go(minutes=3.0)):
        with pytest.raises(ConfigError, match=r"holds results of other settings or minutes \(asked.json says which\)"):
            other()
    (tmp_path / "mine" / "ours").mkdir(parents=True)
    with pytest.raises(ConfigError, match="mine holds other files; set another --folder"):
        go(into=tmp_path / "mine")
    assert halves.worked == []
    assert (tmp_path / "mine" / "ours").exists()


def test_an_error_of_the_system_is_a_sentence(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    def error_of(folder: str, *more: str) -> str:
        assert main(["--to-gold", "1", "--folder", str(tmp_path / folder), *more, *words]) == 1
        *_, last = capsys.readouterr().err.splitlines(keepends=True)  # below bars of progress
        return last.replace(str(tmp_path), "")

    assert error_of("file") == "error: /file is a file; name a folder with --folder.\n"
    assert error_of("file/in") == f"error: /file/in{_NOT_WRITTEN}"
    monkeypatch.setattr(to_gold, "work_of", lambda _: None)
    environments = str(tmp_path / "file")
    assert error_of("kept", "--environments", environments) == f"error: /file/trl_ddpo{_NOT_WRITTEN}"
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("benchmarks.peers.__main__.to_gold", lambda *_: (_ for _ in ()).throw(full))
    assert error_of("other").startswith("error: OSError: [Errno 28] No space left on device (traceback: ")
