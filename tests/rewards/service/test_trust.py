"""Tokens, TLS and mutual TLS between real processes, with certificates made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from rewards.errors import RewardUnavailable
from rewards.service.client import RewardClient
from rewards.service.codec import SERVICE
from rewards.service.security import TOKEN_VARIABLE

pytestmark = pytest.mark.slow

Serve = Callable[..., Any]
MakeAuthority = Callable[[str], Any]  # conftest's
IMAGES, PROMPTS = torch.full((1, 3, 8, 8), 0.5), ["a"]


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def code_of(error: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    return error.value.code()


def test_every_call_but_health_checks_needs_the_token(serve: Serve, tmp_path: Path) -> None:
    server = serve(token="secret")
    (tmp_path / "token").write_text("secret\n")
    assert RewardClient(server.address, token="secret").score(IMAGES, PROMPTS).item() == pytest.approx(501)
    assert RewardClient(server.address, token_file=tmp_path / "token").score(IMAGES, PROMPTS).item() > 500
    for options in ({}, {"token": "secre"}, {"token": "Secret"}):
        with pytest.raises(RewardUnavailable, match="UNAUTHENTICATED") as refused:
            RewardClient(server.address, **options).score(IMAGES, PROMPTS)
        assert "secret" not in str(refused.value)
    channel = grpc.insecure_channel(server.target)
    for method in ("Describe", "Score", "ScoreAndGrad", "Embed", "NoSuchMethod"):
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(f"/{SERVICE}/{method}")(b"")
        assert code_of(error) is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as error:
        ProtoReflectionDescriptorDatabase(channel).get_services()
    assert code_of(error) is grpc.StatusCode.UNAUTHENTICATED
    reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    assert len(server.batches) == 2


def test_tls_with_a_certificate_that_the_client_trusts(serve: Serve, make_authority: MakeAuthority) -> None:
    authority = make_authority("authority")
    certificate, key = authority.issue("server")
    server = serve("--certificate", str(certificate), "--key", str(key))
    address = f"grpcs://{server.target}"
    client = RewardClient(address, authority=authority.file)
    assert client.score(IMAGES, PROMPTS).item() == pytest.approx(501)
    stranger = make_authority("stranger")
    for distrusting in (
        RewardClient(address, authority=stranger.file, patience=0.0),
        RewardClient(address, patience=0.0),
    ):
        with pytest.raises(RewardUnavailable, match="UNAVAILABLE"):
            distrusting.score(IMAGES, PROMPTS)
    with pytest.raises(RewardUnavailable):
        RewardClient(server.address, patience=0.0).score(IMAGES, PROMPTS)  # in clear
    assert server.batches == [1]


def test_mutual_tls_lets_only_clients_in_that_the_authority_signed(serve: Serve, make_authority: MakeAuthority) -> None:
    authority = make_authority("authority")
    certificate, key = authority.issue("server")
    server = serve("--certificate", str(certificate), "--key", str(key), "--client-authority", str(authority.file))
    address, mine = f"grpcs://{server.target}", authority.issue("client")
    client = RewardClient(address, authority=authority.file, certificate=mine[0], key=mine[1])
    assert client.score(IMAGES, PROMPTS).item() == pytest.approx(501)
    forged = make_authority("stranger").issue("forged")
    for options in ({}, {"certificate": forged[0], "key": forged[1]}):
        with pytest.raises(RewardUnavailable, match="UNAVAILABLE"):
            RewardClient(address, authority=authority.file, patience=0.0, **options).score(IMAGES, PROMPTS)
    assert server.batches == [1]
