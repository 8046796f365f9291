"""Benchmarks that strike commands with signals: from the background too, and ended with all that they have started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import psutil
import pytest

from benchmarks import chaos
from benchmarks.signals import ended_by_sigterm, heed
from tests.support import faults, nodes

IGNORED = (signal.SIGINT, signal.SIGHUP)
SLEEPS = "import time; time.sleep(600)"


@pytest.fixture
def background() -> Iterator[None]:
    """This process, as one that a script has sent to the background."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in IGNORED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ignored_by_children() -> list[bool]:
    script = f"import signal; print(*[signal.getsignal(n) == signal.SIG_IGN for n in {[*map(int, IGNORED)]}])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return [word == "True" for word in said.split()]


@pytest.mark.usefixtures("background")
def test_in_the_background_commands_hear_of_ctrl_c_and_hang_ups_and_this_process_goes_on() -> None:
    assert ignored_by_children() == [True, True]
    heed()
    assert ignored_by_children() == [False, False]
    for number in IGNORED:
        signal.raise_signal(number)


def test_sigterm_ends_a_block_once() -> None:
    before, closed = signal.getsignal(signal.SIGTERM), []

    @ended_by_sigterm()
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            closed.append(True)

    with pytest.raises(SystemExit) as ended:
        work()
    assert (ended.value.code, closed) == (143, [True])
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.usefixtures("background")
def test_sigterm_closes_the_cluster_of_the_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed: list[bool] = []
    heard: list[list[bool]] = []

    def compare(*_: object) -> NoReturn:
        heard.append(ignored_by_children())
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        pytest.fail("it goes on")

    monkeypatch.setattr(chaos, "make_cluster", lambda: SimpleNamespace(close=lambda: closed.append(True)))
    monkeypatch.setattr(chaos, "compare", compare)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        chaos.main(["--faults", "4"])
    assert (ended.value.code, closed, heard) == (143, [True], [[False, False]])
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_is_broken_off_while_it_starts_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[psutil.Popen] = []

    def popen(*arguments: Any, **named: Any) -> psutil.Popen:
        started.append(Popen(*arguments, **named))
        return started[-1]

    def sleep(_: float) -> NoReturn:
        raise SystemExit(143)

    Popen = psutil.Popen
    monkeypatch.setattr(nodes.psutil, "Popen", popen)
    monkeypatch.setattr(nodes, "_RAY", [sys.executable, "-c", SLEEPS])
    monkeypatch.setattr(nodes, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    monkeypatch.setattr(nodes.tempfile, "mkdtemp", lambda **_: str(tmp_path / "cluster"))
    (tmp_path / "cluster").mkdir()
    with pytest.raises(SystemExit):
        nodes.Cluster()
    (head,) = started
    assert not head.is_running()
    assert not list(tmp_path.iterdir())


def test_a_worker_that_is_broken_off_while_it_starts_closes_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        closed = False

        def add(self, *_: str) -> NoReturn:
            raise SystemExit(143)

        def close(self) -> None:
            self.closed = True

    cluster = Broken()
    monkeypatch.setattr(chaos, "Cluster", lambda *_: cluster)
    with pytest.raises(SystemExit):
        chaos.make_cluster()
    assert cluster.closed


def test_a_site_that_closes_ends_what_its_driver_has_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    starts = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', '{SLEEPS}']); time.sleep(600)"
    monkeypatch.setattr(faults.Site, "_start", lambda *_: subprocess.Popen([sys.executable, "-c", starts]))
    monkeypatch.setattr(faults, "_LINGERS", 0.2)
    site = faults.Site(None, tmp_path / "c.yaml", tmp_path / "run")
    while not (children := psutil.Process(site._driver.pid).children()):
        time.sleep(0.01)
    site.close()
    assert psutil.wait_procs(children, timeout=10)[1] == [] or not any(map(faults._runs, children))
    assert not site._ray.exists()
