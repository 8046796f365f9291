"""Real reward servers, each a process of its own on loopback, and certificates."""

from __future__ import annotations

import datetime
import ipaddress
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import rewards

ROOT = Path(rewards.__file__).parents[1]


@dataclass
class Server:
    """A running server, of the `probe` reward unless another was asked for."""

    process: subprocess.Popen[str]
    port: int
    folder: Path

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"grpc://{self.target}"

    @property
    def batches(self) -> list[int]:
        """Images of every call that the reward has had, the one under way included."""
        log = self.folder / "log"
        return [int(line) for line in log.read_text().split()] if log.exists() else []

    def hold(self) -> None:
        """From now on calls of the reward do not end."""
        (self.folder / "hold").touch()

    def release(self) -> None:
        (self.folder / "hold").unlink(missing_ok=True)

    def wait_for_batches(self, count: int) -> None:
        for _ in range(2000):
            if len(self.batches) >= count:
                return
            time.sleep(0.01)
        raise TimeoutError(f"{self.batches} are not {count} batches")


Serve = Callable[..., Server]


def _launch(folder: Path, *arguments: str, reward: str = "probe", port: int = 0, token: str | None = None) -> Server:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if token:
        environment["REINOISE_REWARD_TOKEN"] = token
    script = Path(__file__).parent / "probe_server.py"
    command = [sys.executable, script, "--reward", reward]
    if reward == "probe":
        command += ["--option", f"folder={folder}"]
    process = subprocess.Popen(
        [*command, "--listen", f"127.0.0.1:{port}", *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith(f"serving {reward} on 127.0.0.1:"), line
    return Server(process, int(line.rpartition(":")[2]), folder)


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers: `serve(*arguments, reward="probe", port=0, token=None)`; they end with the test."""
    servers: list[Server] = []

    def start(*arguments: str, **settings: Any) -> Server:
        servers.append(_launch(tmp_path_factory.mktemp("probe"), *arguments, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with the default settings, for tests that leave it as they found it."""
    server = _launch(tmp_path_factory.mktemp("probe"))
    yield server
    server.process.kill()
    server.process.wait()


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
def make_authority(tmp_path: Path) -> Callable[[str], Authority]:
    """Makes authorities by name; their files lie in the test's folder."""
    return partial(Authority, tmp_path)
