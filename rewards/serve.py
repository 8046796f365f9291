"""`python -m rewards.serve`: any reward as a gRPC service, which `grpc://host:port` makes a reward again."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml
from grpc import ServerCredentials

from rewards import make_reward
from rewards.errors import RewardUnavailable, said
from rewards.reward import Reward, UnknownReward
from rewards.service.limits import MIB, Limits
from rewards.service.security import (
    TOKEN_VARIABLE,
    check_listening,
    read_token,
    server_credentials,
    split_address,
)
from rewards.service.server import RewardServer
from shapes.arguments import Parser, one_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a reward until told to stop; the exit status."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level="WARNING", format="%(levelname)s %(message)s")
    # A client that goes away while it is answered is no error of ours.
    logging.getLogger("grpc._cython.cygrpc").addFilter(lambda said: "ExecuteBatchError" not in said.getMessage())
    _return_freed_memory()
    try:
        server, credentials, memory = _prepare(args)
    except (OSError, ValueError, UnknownReward, RewardUnavailable) as error:  # of settings, files, and the reward
        return _fail(error)
    try:
        finished = asyncio.run(server.run(args.listen, credentials, partial(_announce, args, memory)))
    except OSError as error:
        return _fail(error)
    if not finished:
        os._exit(_fail("stopped with requests under way"))  # the computing thread would hold an ordinary exit up
    return 0


def _fail(reason: object) -> int:
    print(f"error: {one_line(reason)}", file=sys.stderr, flush=True)
    return 1


def _parser() -> Parser:
    defaults = Limits()
    parser = Parser("rewards.serve", "Serve a reward over gRPC.")
    add = parser.add_argument
    add("--reward", required=True, metavar="NAME", help="as in a run's config, such as shapes_agreement")
    add("--option", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="of the reward's class")
    add("--listen", default="127.0.0.1:50051", metavar="HOST:PORT", help="default %(default)s; port 0 is a free one")
    add("--certificate", type=Path, metavar="PEM", help="the server's certificate: turns TLS on")
    add("--key", type=Path, metavar="PEM", help="its private key")
    add("--client-authority", type=Path, metavar="PEM", help="clients must show a certificate signed by this one")
    add("--token-file", type=Path, help=f"clients must know the token in it; otherwise {TOKEN_VARIABLE}, if it is set")
    add("--insecure", action="store_true", help="listen beyond this machine even without TLS or a token")
    add("--max-batch", type=_count, default=defaults.max_images, metavar="N", help="images of a request or a batch")
    add("--max-wait-ms", type=_number, default=1000 * defaults.max_wait, metavar="MS", help="wait of a batch for more")
    add("--max-requests", type=_count, default=defaults.max_requests, metavar="N", help="under way at a time")
    add(
        "--max-message-mib",
        type=_count,
        default=defaults.max_message_bytes // MIB,
        metavar="MIB",
        help="of a request",
    )
    add("--drain-seconds", type=_number, default=defaults.drain_seconds, metavar="S", help="to finish in when stopped")
    add("--reply-seconds", type=_number, default=defaults.reply_seconds, metavar="S", help="to read a reply in")
    return parser


def _prepare(args: argparse.Namespace) -> tuple[RewardServer, ServerCredentials | None, int]:
    """Everything that can be refused before anything listens."""
    limits = Limits(
        args.max_batch,
        args.max_wait_ms / 1000,
        args.max_requests,
        args.max_message_mib * MIB,
        args.drain_seconds,
        args.reply_seconds,
    )
    host, _ = split_address(args.listen)
    token = read_token(args.token_file)
    if bool(args.certificate) != bool(args.key) or (args.client_authority and not args.certificate):
        raise ValueError("TLS needs --certificate and --key together; --client-authority needs both.")
    check_listening(
        host,
        encrypted=args.certificate is not None,
        authenticated=token is not None or args.client_authority is not None,
        insecure=args.insecure,
    )
    credentials = server_credentials(args.certificate, args.key, args.client_authority) if args.certificate else None
    options = dict(_option(text) for text in args.option)
    reward = _make(args.reward, options)
    memory, machine = limits.memory(gradients=reward.differentiable), psutil.virtual_memory().total
    if memory > machine:
        raise ValueError(
            f"Requests could take up to {_size(memory)}, and this machine has {_size(machine)}; lower --max-requests "
            f"({limits.max_requests}) or --max-message-mib ({args.max_message_mib})."
        )
    return RewardServer(reward, args.reward, limits, token), credentials, memory


def _make(kind: str, options: dict[str, Any]) -> Reward:
    try:
        return make_reward(kind, **options)
    except (UnknownReward, RewardUnavailable):
        raise
    except (Exception, SystemExit) as error:  # a user's class may raise anything
        raise RewardUnavailable(f"The reward {kind!r} cannot be built: {said(error)}.") from error


def _announce(args: argparse.Namespace, memory: int, port: int) -> None:
    print(f"serving {args.reward} on {args.listen.rpartition(':')[0]}:{port}", flush=True)
    print(f"requests take at most {_size(memory)}, beside what the reward itself takes to compute", flush=True)


def _size(count: int) -> str:
    return f"{count / 2**40:.1f} TiB" if count >= 2**40 else f"{count / MIB:.0f} MiB"


def _return_freed_memory() -> None:
    """Tell glibc to give large blocks back to the system at once; it would learn to keep them."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_mmap_threshold = -3
        libc.mallopt(m_mmap_threshold, MIB)


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not an option; write key=value, such as quality=90.")
    try:
        return key, yaml.safe_load(value)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"The option {text!r} cannot be read: {error}") from None


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


if __name__ == "__main__":
    sys.exit(main())
