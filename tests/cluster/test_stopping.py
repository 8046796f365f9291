"""SIGTERM: raised where it is safe, kept where it is not, and left to others outside."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from cluster.stopping import Stopped, at_once, deferred


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_request_ends_a_block_that_may_end_at_once() -> None:
    went_on = False
    with deferred():
        try:
            with at_once():
                ask()
                went_on = True
        except Stopped:
            assert not went_on
        else:
            pytest.fail("nothing was raised")


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
