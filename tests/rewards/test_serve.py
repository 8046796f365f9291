"""`python -m rewards.serve`: what cannot work is refused in one line, before anything listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewards.serve import main
from rewards.service.security import TOKEN_VARIABLE
from rewards.service.server import RewardServer

JPEG = ["--reward", "jpeg_compressibility"]

BUILT_NEVER = """
import sys
from rewards.jpeg import JpegCompressibility

class Exits(JpegCompressibility):
    def __init__(self): sys.exit(0)

class Raises(JpegCompressibility):
    def __init__(self): raise RuntimeError("no GPU\\nat all")

class Imports(JpegCompressibility):
    def __init__(self): import no_such_package
"""


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
        ([*JPEG, "--option", "quality=" + "[" * 5000], "quality"),
        ([*JPEG, "--option", "\x1b[31m=5"], r"\x1b[31m"),
        ([*JPEG, "--listen", "\x1b[31m:1"], r"\x1b[31m"),
        (["--reward", "built_never:Exits"], "cannot be built: SystemExit: 0"),
        (["--reward", "built_never:Raises"], "cannot be built: RuntimeError: no GPU at all"),
        (["--reward", "built_never:Imports"], "cannot be built: ModuleNotFoundError"),
        ([*JPEG, "--listen", "50051"], "host:port"),
        ([*JPEG, "--listen", "0.0.0.0:0"], "needs TLS"),
        ([*JPEG, "--listen", "[::]:0"], "needs TLS"),
        ([*JPEG, "--certificate", "server.pem"], "--certificate and --key together"),
        ([*JPEG, "--client-authority", "ca.pem"], "needs both"),
        ([*JPEG, "--certificate", "no.pem", "--key", "no.key"], "no.key"),
        ([*JPEG, "--certificate", "text", "--key", "text"], "text is not a certificate in PEM form"),
        ([*JPEG, "--certificate", "empty", "--key", "empty"], "empty is not a certificate in PEM form"),
        ([*JPEG, "--token-file", "no-token"], "no-token"),
        ([*JPEG, "--token-file", "."], "Is a directory"),
        ([*JPEG, "--token-file", "empty"], "no usable token"),
        ([*JPEG, "--max-wait-ms", "nan"], "--max-wait-ms is nan"),
        ([*JPEG, "--max-wait-ms", "inf"], "--max-wait-ms is inf"),
        ([*JPEG, "--max-wait-ms", "-1"], "--max-wait-ms is -1"),
        ([*JPEG, "--drain-seconds", "-1"], "--drain-seconds is -1"),
        ([*JPEG, "--drain-seconds", "1e300"], "--drain-seconds is 1e+300"),
        ([*JPEG, "--reply-seconds", "0"], "--reply-seconds is 0"),
        ([*JPEG, "--max-batch", "0"], "--max-batch is 0"),
        ([*JPEG, "--max-requests", "1000000000"], "--max-requests is 1e+09"),
        ([*JPEG, "--max-message-mib", "1000000000"], "--max-message-mib is 1e+09"),
        ([*JPEG, "--max-requests", "50000", "--max-message-mib", "1000"], "this machine has"),
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
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "built_never.py").write_text(BUILT_NEVER)
    (tmp_path / "text").write_text("not PEM")
    (tmp_path / "empty").touch()
    assert main(arguments) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert words in line


def test_an_empty_token_is_no_open_door(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    assert main(JPEG) == 1
    assert "no usable token" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--max-batch", "--max-requests", "--max-message-mib", "--max-wait-ms"])
def test_what_is_no_number_is_refused_as_none(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*JPEG, option, "10**9"])
    assert ended.value.code == 1
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert "'10**9' is not a" in line
