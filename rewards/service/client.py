"""The client: a reward that is computed by a server elsewhere, with gradients.

gRPC's own retries do not fit here: they keep no message above their buffer's size, and end after five attempts, long
before a server that loads a large model is back.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import grpc
import torch
from google.protobuf.message import DecodeError
from torch import Tensor
from torch.autograd.function import once_differentiable

from rewards.errors import RewardUnavailable, WrongAnswer
from rewards.reward import Reward
from rewards.service.codec import MAX_PROMPT, QUESTIONS, SERVICE, Malformed, decode, encode_images
from rewards.service.reward_pb2 import DescribeRequest, Description, Judgement
from rewards.service.security import Insecure, check_token, client_credentials, is_loopback, read_token, split_address

log = logging.getLogger(__name__)
_MESSAGE_BYTES = 64 * 2**20  # of a request; a reply may have this and a little more
_PARALLEL = 4  # requests of one call under way
_ENVELOPE = 64 * 2**10  # of a message that is neither images nor prompts
_LONGEST = 7 * 86_400.0  # seconds that an attempt or a server's absence may take
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0  # seconds between attempts
_AWAY = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # we cancel nothing: the server or a proxy on the way did
}
_TOO_LARGE = "message larger than max"  # gRPC's own words, of either end: it would be as large the next time
_REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}

_Message = TypeVar("_Message", Description, Judgement)


class RewardClient(Reward):
    """A reward behind `python -m rewards.serve`.

    Nothing is sent before the first question. A call that fails because the server is away, busy or slow is repeated;
    once the server has not answered anything for `patience` seconds, every call makes one attempt and gives up.
    `score` carries a gradient, unless the server's reward has none: then asking for it is a `TypeError`.

    Args:
        address: `grpc://host:port`, or `grpcs://host:port` for TLS.
        token: Bearer token of the service. It ends up in the run's saved configuration; better leave it out and name
            `token_file`, or set the environment variable REINOISE_REWARD_TOKEN.
        token_file: File with the token.
        authority: PEM file of who signed the server's certificate; the system's list if it is left out.
        certificate: PEM file to show to a server that asks for one (mutual TLS).
        key: PEM file, its private key.
        insecure: Send a token without TLS to another machine.
        deadline: Seconds that one attempt may take.
        patience: Seconds without any answer after which the reward counts as gone for good.

    Raises:
        ValueError: If an option cannot work; the message is one sentence.
    """

    differentiable = True  # the server knows; it is asked when a gradient is first wanted

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        token_file: str | Path | None = None,
        authority: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        insecure: bool = False,
        deadline: float = 60.0,
        patience: float = 300.0,
    ) -> None:
        for name, seconds in (("deadline", deadline), ("patience", patience)):
            least = 0.001 if name == "deadline" else 0
            number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
            if not number or not least <= seconds <= _LONGEST:  # as NaN is not
                raise ValueError(
                    f"The option {name!r} of {address} is {seconds!r}; it must be from {least} to {_LONGEST:.0f} "
                    "seconds (a week)."
                )
        scheme, _, target = address.partition("://")
        host, _ = split_address(target)
        encrypted = scheme == "grpcs"
        if (authority or certificate or key) and not encrypted:
            raise ValueError(f"{address} is not encrypted; certificates are for grpcs:// addresses.")
        if bool(certificate) != bool(key):
            raise ValueError("A client certificate needs its key, and a key its certificate; give both.")
        if token is None:
            token = read_token(token_file)
        else:
            check_token(token, "The option 'token'")
        if token and not (encrypted or insecure or is_loopback(host)):
            raise Insecure(
                f"The token would cross the network in clear to {address}; use grpcs://, or say insecure=true on a "
                "network where everybody is trusted."
            )
        self._address, self._deadline, self._patience = address, deadline, patience
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES + 2**20),
            ("grpc.max_reconnect_backoff_ms", int(1000 * _LONGEST_PAUSE)),
            ("grpc.keepalive_time_ms", 10_000),  # so that a server whose machine is lost is noticed
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.enable_http_proxy", 0),
        ]
        self._channel = (
            grpc.secure_channel(target, client_credentials(authority, certificate, key), options)
            if encrypted
            else grpc.insecure_channel(target, options)
        )
        self._away_since: float | None = None

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        if images.requires_grad and torch.is_grad_enabled():
            return _Score.apply(images, prompts, self)
        (scores,) = self._ask("Score", images, prompts)
        return scores

    def embed(self, images: Tensor) -> Tensor:
        if not self._description.features:
            raise TypeError(f"The reward {self._description.reward} at {self._address} has no image features.")
        (features,) = self._ask("Embed", images, None)
        return features

    def gradients(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Scores `(B,)` and d score / d image `(B, 3, H, W)`, float32.

        Raises:
            TypeError: If the server's reward has no gradient.
        """
        if not self._description.differentiable:
            raise TypeError(
                f"The reward {self._description.reward} at {self._address} has no gradient with respect to the image; "
                "give it weight 0 to watch it, or choose an objective that needs only scores."
            )
        scores, gradients = self._ask("ScoreAndGrad", images, prompts)
        return scores, gradients

    @cached_property
    def _description(self) -> Description:
        found = self._parse(Description, self._call("Describe", DescribeRequest().SerializeToString()))
        if found.max_images < 1:
            raise RewardUnavailable(f"The reward at {self._address} says that it takes no images at all.")
        return found

    def _parse(self, kind: type[_Message], reply: bytes) -> _Message:
        try:
            return kind.FromString(reply)
        except DecodeError:
            raise RewardUnavailable(
                f"{self._address} answers with something else than a {kind.__name__}; it is no reward service."
            ) from None

    def _ask(self, question: str, images: Tensor, prompts: Sequence[str] | None) -> list[Tensor]:
        """The fields of the answer; NaN for images with values that are not finite, as a reward here would say."""
        images = images.detach().float().cpu().contiguous()
        finite = images.flatten(1).isfinite().all(dim=1)
        images = torch.where(finite.view(-1, 1, 1, 1), images, 0.0)
        size = min(self._description.max_images, self._fitting(images))
        requests = [
            (images[i : i + size], () if prompts is None else prompts[i : i + size])
            for i in range(0, len(images), size)
        ]
        with ThreadPoolExecutor(_PARALLEL) as threads:
            replies = list(threads.map(lambda request: self._judge(question, *request), requests))
        answers = [torch.cat(parts) for parts in zip(*replies, strict=True)]
        for answer in answers:
            answer[~finite] = torch.nan
        return answers

    def _fitting(self, images: Tensor) -> int:
        """How many of the images fit into a message, with their prompts, and their gradients into the reply."""
        limit = min(self._description.max_message_bytes, _MESSAGE_BYTES)
        size = images[0].nbytes + 4 * MAX_PROMPT
        if size > limit - _ENVELOPE:
            raise ValueError(
                f"Images of shape {tuple(images.shape[1:])} do not fit into the {limit / 2**20:.0f} MiB of a message "
                f"to {self._address}; the server's --max-message-mib is the limit, up to {_MESSAGE_BYTES // 2**20}."
            )
        return (limit - _ENVELOPE) // size

    def _judge(self, question: str, images: Tensor, prompts: Sequence[str]) -> list[Tensor]:
        reply = self._parse(Judgement, self._call(question, encode_images(images, prompts)))
        shapes = {"scores": (len(images),), "gradients": tuple(images.shape)}
        fields = []
        for name in QUESTIONS[question]:
            try:
                dimensions = {"scores": 1, "gradients": 4, "features": 2}[name]
                field = decode(getattr(reply, name), name, ("float32",), dimensions)
            except Malformed as error:
                raise WrongAnswer(
                    f"The reward at {self._address} answered something else than {name}: {error}"
                ) from None
            if field.shape != shapes.get(name, (len(images), *field.shape[1:])):
                raise WrongAnswer(
                    f"The reward at {self._address} answered {len(images)} images with {name} of shape {field.shape}."
                )
            fields.append(torch.from_numpy(field.copy()))
        return fields

    def _call(self, method: str, message: bytes) -> bytes:
        rpc = self._channel.unary_unary(f"/{SERVICE}/{method}")  # of bytes: the messages are (de)serialised here
        pause = _SHORTEST_PAUSE
        while True:
            try:
                reply = rpc(message, timeout=self._deadline, metadata=self._metadata)
            except grpc.RpcError as error:
                self._give_up_or_wait(error)
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._away_since = None
                return reply

    def _give_up_or_wait(self, error: Any) -> None:
        """Raise what a failed attempt means, unless another may succeed."""
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            raise ValueError(f"The reward service at {self._address} refused a request: {details}") from error
        if code in _REFUSED or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details):
            raise RewardUnavailable(f"The reward at {self._address} cannot be used: {code.name}: {details}") from error
        if code not in _AWAY:
            raise RuntimeError(f"The reward service at {self._address} failed: {code.name}: {details}") from error
        now = time.monotonic()
        if (since := self._away_since) is None:
            since = self._away_since = now
            if code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                log.warning("%s does not answer; it is asked again for %g seconds. (%s: %s)",
                            self._address, self._patience, code.name, details)  # fmt: skip
        if now - since >= self._patience:
            raise RewardUnavailable(
                f"The reward at {self._address} has not answered for {now - since:.0f} seconds, and its patience is "
                f"{self._patience:g}; the last attempt said {code.name}: {details}"
            ) from error


class _Score(torch.autograd.Function):
    """Scores whose gradient came with them."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, prompts: Sequence[str], client: RewardClient) -> Tensor:
        scores, gradients = client.gradients(images, prompts)
        ctx.save_for_backward(gradients)
        return scores.to(images.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return upstream.view(-1, 1, 1, 1) * gradients.to(upstream.device), None, None
