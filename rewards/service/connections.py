"""The TCP connections behind calls: gRPC names a call's peer, and neither says what it has read nor hangs up on it."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import termios
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote


def unsent(peer: str) -> int:
    """Bytes for a peer that its machine has not acknowledged; 0 once the connection has gone.

    Args:
        peer: As gRPC writes it: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`.
    """
    if (connection := _find(peer)) is None:
        return 0
    with connection, suppress(OSError):
        return struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0]
    return 0


def drop(peer: str) -> None:
    """Hang up on a peer: its calls end, and what gRPC holds for them is freed.

    Args:
        peer: As for `unsent`.
    """
    if (connection := _find(peer)) is not None:
        with connection, suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _find(peer: str) -> socket.socket | None:
    """This process's socket that is connected to a peer, under a descriptor of its own."""
    wanted = _address(*unquote(peer.partition(":")[2]).rsplit(":", 1))
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # closed meanwhile, or not connected
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            connection = socket.socket(fileno=os.dup(int(name)))
            with suppress(OSError):
                if connection.family in (socket.AF_INET, socket.AF_INET6) and (
                    _address(*connection.getpeername()[:2]) == wanted
                ):
                    return connection
            connection.close()
    return None


def _address(host: str, port: int | str) -> tuple[str, int]:
    address = ip_address(host.strip("[]"))
    # Sockets of a server are IPv6, and see IPv4 as a part of it.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address), int(port)
