"""Tokens, TLS and mutual TLS between real processes, with certificates made here."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from rewards.errors import RewardUnavailable
from rewards.service.client import RewardClient
from rewards.service.codec import SERVICE
from rewards.service.security import TOKEN_VARIABLE

pytestmark = pytest.mark.slow

Serve = Callable[..., Any]
IMAGES, PROMPTS = torch.full((1, 3, 8, 8), 0.5), ["a"]


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


class Authority:
    """Signs certificates for 127.0.0.1 and writes them below a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name, self._key = folder, name, ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._sign(name, self._key, authority=True))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(self._sign(name, key, authority=False))
        encoding, format = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        key_file.write_bytes(key.private_bytes(encoding, format, serialization.NoEncryption()))
        return certificate, key_file

    def _sign(self, subject: str, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> bytes:
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, self._name)]
        now = datetime.datetime.now(datetime.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            x509.CertificateBuilder(*reversed(names), key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


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


def test_tls_with_a_certificate_that_the_client_trusts(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    server = serve("--certificate", str(certificate), "--key", str(key))
    address = f"grpcs://{server.target}"
    client = RewardClient(address, authority=authority.file)
    assert client.score(IMAGES, PROMPTS).item() == pytest.approx(501)
    stranger = Authority(tmp_path, "stranger")
    for distrusting in (
        RewardClient(address, authority=stranger.file, patience=0.0),
        RewardClient(address, patience=0.0),
    ):
        with pytest.raises(RewardUnavailable, match="UNAVAILABLE"):
            distrusting.score(IMAGES, PROMPTS)
    with pytest.raises(RewardUnavailable):
        RewardClient(server.address, patience=0.0).score(IMAGES, PROMPTS)  # in clear
    assert server.batches == [1]


def test_mutual_tls_lets_only_clients_in_that_the_authority_signed(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue("server")
    server = serve("--certificate", str(certificate), "--key", str(key), "--client-authority", str(authority.file))
    address, mine = f"grpcs://{server.target}", authority.issue("client")
    client = RewardClient(address, authority=authority.file, certificate=mine[0], key=mine[1])
    assert client.score(IMAGES, PROMPTS).item() == pytest.approx(501)
    forged = Authority(tmp_path, "stranger").issue("forged")
    for options in ({}, {"certificate": forged[0], "key": forged[1]}):
        with pytest.raises(RewardUnavailable, match="UNAVAILABLE"):
            RewardClient(address, authority=authority.file, patience=0.0, **options).score(IMAGES, PROMPTS)
    assert server.batches == [1]
