"""`python -m rewards.serve`: what cannot work is refused in one line, before anything listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewards.serve import main
from rewards.service.security import TOKEN_VARIABLE
from rewards.service.server import RewardServer

JPEG = ["--reward", "jpeg_compressibility"]


@pytest.fixture(autouse=True)
def nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RewardServer, "run", lambda *_: pytest.fail("it listens"))
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--reward", "jpeg_compresibility"], "'jpeg_compressibility'"),
        ([*JPEG, "--option", "qualty=9"], "qualty"),
        ([*JPEG, "--option", "quality"], "key=value"),
        ([*JPEG, "--option", "quality=["], "'quality=['"),
        ([*JPEG, "--listen", "50051"], "host:port"),
        ([*JPEG, "--listen", "0.0.0.0:0"], "needs TLS"),
        ([*JPEG, "--listen", "[::]:0"], "needs TLS"),
        ([*JPEG, "--certificate", "server.pem"], "--certificate and --key together"),
        ([*JPEG, "--client-authority", "ca.pem"], "needs both"),
        ([*JPEG, "--certificate", "no.pem", "--key", "no.key"], "no.key"),
        ([*JPEG, "--token-file", "no-token"], "no-token"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert words in line


def test_an_empty_token_is_no_open_door(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    assert main(JPEG) == 1
    assert "no usable token" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["--max-batch", "--max-requests", "--max-message-mib"])
def test_limits_are_positive(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*JPEG, limit, "0"])
    assert "0 is not positive" in capsys.readouterr().err
