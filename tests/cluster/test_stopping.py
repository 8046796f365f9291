"""Requests to end: raised where it is safe, kept where it is not, and left to others outside."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest
import ray

from cluster.stopping import REQUESTS, Stopped, at_once, beginning, deferred


def ask(number: int = signal.SIGTERM) -> None:
    signal.raise_signal(number)  # to this thread, so that it has come when this returns


@pytest.mark.parametrize("number", REQUESTS)
def test_a_request_ends_a_block_that_may_end_at_once(number: signal.Signals) -> None:
    went_on = False
    with deferred(), pytest.raises(Stopped) as caught, at_once():  # noqa: PT012
        ask(number)
        went_on = True
    assert not went_on
    assert caught.value.signal == number


def test_a_request_that_came_elsewhere_lets_no_such_block_begin() -> None:
    done = False
    with deferred():
        with at_once():
            pass
        ask()
        done = True
        with pytest.raises(Stopped), at_once():
            pytest.fail("the block began")
    assert done


def test_the_handler_of_before_is_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with deferred():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_it_does_nothing() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with deferred(), at_once():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_request_is_forgotten_with_its_run() -> None:
    with deferred():
        ask()
    with deferred(), at_once():
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemError, OSError])
def test_whatever_became_of_a_request_in_a_library_it_is_one(error: type[BaseException]) -> None:
    with deferred(), pytest.raises(Stopped), at_once():  # noqa: PT012
        try:
            ask()
        except Stopped:
            raise error from None
    with deferred(), pytest.raises(error), at_once():
        raise error


@pytest.mark.slow
@pytest.mark.parametrize("number", REQUESTS)
def test_a_request_ends_a_wait_for_ray(ray_cluster: None, number: signal.Signals) -> None:
    class Sleeper:
        def sleep(self) -> None:
            time.sleep(60)

    actor = ray.remote(Sleeper).options(num_cpus=0).remote()  # type: ignore[attr-defined]
    asleep = actor.sleep.remote()
    for wait in (lambda: ray.wait([asleep], timeout=30), lambda: ray.get(asleep, timeout=30)):
        began = time.monotonic()
        with deferred():
            threading.Timer(1, lambda: os.kill(os.getpid(), number)).start()
            with pytest.raises(Stopped), at_once():
                wait()
        assert time.monotonic() - began < 20
    ray.kill(actor)


def test_a_request_holds_until_its_run_has_ended() -> None:
    with deferred():
        ask()
        for _ in range(2):
            with pytest.raises(Stopped), at_once():
                pytest.fail("the block began")


def test_what_ends_in_good_order_is_not_broken_off_by_another_request() -> None:
    done = False
    with deferred():
        try:
            with at_once():
                ask()
        except Stopped:
            ask(signal.SIGHUP)
            done = True
    assert done


def test_signals_that_are_ignored_from_the_start_stay_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with deferred(), at_once():
            ask(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_begins_begins_whole_and_its_own_handlers_do_not_stay() -> None:
    begun = False
    with deferred():
        with beginning():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
            ask(signal.SIGINT)
            begun = True
        assert begun
        with pytest.raises(Stopped), at_once():
            pytest.fail("the block began")
    with deferred():
        with pytest.raises(Stopped), beginning():  # noqa: PT012
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
            ask()
        ask()  # is heeded again


def test_processes_that_begin_do_not_hear_of_the_terminal() -> None:
    with deferred(), beginning():
        child = subprocess.Popen(["sleep", "60"])
    try:
        for number in (signal.SIGINT, signal.SIGHUP):
            child.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)
    finally:
        child.kill()
        child.wait()


CHILD = """
import os, sys, time
from cluster.stopping import at_once, deferred
with deferred():
    print("up", flush=True)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        time.sleep(0.01)
"""


def test_a_second_ctrl_c_ends_the_process_at_once_and_says_nothing_of_its_inside() -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.3)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=5)
    assert child.returncode == 130
    assert said.strip().startswith("Ctrl-C: the run ends after this step")
    assert said.strip().count("\n") == 0


def test_a_run_whose_terminal_closes_goes_on_to_its_end() -> None:
    ours, theirs = pty.openpty()
    program = CHILD.replace("until = ", "until = 0 * ") + (
        "    while True:\n"
        "        print('still here', flush=True)\n"
        "        time.sleep(0.05)\n"
        "        try:\n"
        "            with at_once(): pass\n"
        "        except BaseException as error:\n"
        "            for _ in range(3): print('written to nobody', flush=True)\n"
        "            sys.exit(128 + error.signal)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    while b"still here" not in os.read(ours, 1000):
        pass
    child.send_signal(signal.SIGHUP)
    os.close(ours)
    assert child.wait(10) == 128 + signal.SIGHUP


def test_words_that_cannot_be_found_keep_nothing_from_its_end() -> None:
    program = (
        "from cluster.stopping import abandon, deferred\n"
        "with deferred(lambda asked: {}['words']):\n"
        "    try:\n"
        "        abandon()\n"
        "    finally:\n"
        "        print('still here', flush=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout) == (1, "")


@pytest.mark.parametrize(("asked", "status", "words"), [(True, 143, "stopped by SIGTERM"), (False, 1, "by itself")])
def test_what_never_ends_is_abandoned_from_any_thread_with_its_last_words(asked: bool, status: int, words: str) -> None:
    program = (
        "import os, signal, threading, time\n"
        "from cluster.stopping import abandon, deferred\n"
        "with deferred(lambda asked: f'stopped by {asked.name}' if asked else 'by itself'):\n"
        f"    {asked} and os.kill(os.getpid(), signal.SIGTERM)\n"
        "    threading.Timer(0.2, abandon).start()\n"
        "    time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stderr) == (status, f"{words}\n")
