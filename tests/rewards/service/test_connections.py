"""A peer's connection is found by the name that gRPC gives it, measured and hung up on."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from rewards.service.connections import drop, unsent


@contextmanager
def connected(family: int, host: str) -> Iterator[tuple[socket.socket, socket.socket, str]]:
    """A client, the server's end, and the client's name."""
    dual = family == socket.AF_INET6 and host != "::1"  # as gRPC listens
    with socket.create_server(
        ("" if dual else host, 0), family=socket.AF_INET6 if dual else family, dualstack_ipv6=dual
    ) as listener:
        client = socket.create_connection((host, listener.getsockname()[1]))
        server, _ = listener.accept()
    name, port = client.getsockname()[:2]
    with client, server:
        yield client, server, f"ipv6:{quote(f'[{name}]')}:{port}" if ":" in name else f"ipv4:{name}:{port}"


CASES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "127.0.0.1"), (socket.AF_INET6, "::1")]


@pytest.mark.parametrize(("family", "host"), CASES)
def test_what_the_other_machine_has_not_taken_is_counted(family: int, host: str) -> None:
    with connected(family, host) as (client, server, peer):
        server.setblocking(False)
        assert unsent(peer) == 0
        try:
            while True:
                server.send(bytes(2**20))
        except BlockingIOError:
            pass
        assert unsent(peer) > 0
        client.settimeout(1)
        while unsent(peer):
            client.recv(2**20)


@pytest.mark.parametrize(("family", "host"), CASES)
def test_a_dropped_connection_ends_for_both_and_no_other_does(family: int, host: str) -> None:
    with connected(family, host) as (client, server, peer), connected(family, host) as (spared, sender, _):
        drop(peer)
        client.settimeout(5)
        assert client.recv(1) == server.recv(1) == b""
        sender.send(b"a")
        assert spared.recv(1) == b"a"


def test_a_peer_that_has_gone_has_nothing_unsent_and_cannot_be_dropped() -> None:
    with connected(socket.AF_INET, "127.0.0.1") as (_, _, peer):
        pass
    time.sleep(0.01)
    assert unsent(peer) == 0
    drop(peer)
