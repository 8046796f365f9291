"""Who may talk to a reward service, and over what: addresses, certificates and the bearer token, for both ends.

Loopback needs nothing. Anything else must be encrypted and authenticated, unless the user says outright that the
network can be trusted.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import ssl
from pathlib import Path

import grpc

TOKEN_VARIABLE = "REINOISE_REWARD_TOKEN"
MAX_TOKEN = 4096  # characters; gRPC takes 8 KiB of headers


class Insecure(ValueError):
    """Settings that would let strangers in, or a secret out; the message is one sentence for the user."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, with an IPv6 host in brackets.

    Raises:
        ValueError: If it is not of that form.
    """
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or not port.isdecimal() or int(port) > 65535 or (":" in bare and bare == host):
        raise ValueError(f"{address!r} is not an address; write host:port, such as 127.0.0.1:50051.")
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(file: str | Path | None) -> str | None:
    """The bearer token in a file, or else in the environment; `None` if there is neither.

    Raises:
        ValueError: If it is empty, cannot be read, or could not travel as a header.
    """
    token = _read(file, "token", MAX_TOKEN).decode(errors="replace").strip() if file else os.environ.get(TOKEN_VARIABLE)
    if token is not None:
        check_token(token, str(file) if file else f"The environment variable {TOKEN_VARIABLE}")
    return token


def check_token(token: str, source: str) -> None:
    """Refuse a token that is empty or could not travel as a header, without repeating it.

    Raises:
        ValueError: If it is either.
    """
    if not 0 < len(token) <= MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"{source} holds no usable token; it must be one word of at most {MAX_TOKEN} printable ASCII characters."
        )


def authorises(header: str | bytes | None, token: str) -> bool:
    """Whether an `authorization` header carries the token, in a time that does not tell how much of it was right."""
    given = header.encode() if isinstance(header, str) else header or b""
    return hmac.compare_digest(given, f"Bearer {token}".encode())


def check_listening(host: str, *, encrypted: bool, authenticated: bool, insecure: bool) -> None:
    """Refuse to listen where strangers could connect.

    Raises:
        Insecure: If the address is not loopback and there is no encryption or no authentication.
    """
    if insecure or is_loopback(host) or (encrypted and authenticated):
        return
    lacking = " and ".join(
        word
        for word, there in (
            ("TLS (--certificate, --key)", encrypted),
            (f"a token (--token-file or {TOKEN_VARIABLE}) or --client-authority", authenticated),
        )
        if not there
    )
    raise Insecure(
        f"{host} can be reached from other machines, so listening there needs {lacking}; on a network where everybody "
        "is trusted, say --insecure."
    )


def server_credentials(certificate: Path, key: Path, client_authority: Path | None) -> grpc.ServerCredentials:
    """TLS of the server; with an authority, clients must show a certificate that it signed.

    Args:
        certificate: PEM file, the chain.
        key: PEM file, unencrypted.
        client_authority: PEM file.

    Raises:
        ValueError: If a file cannot be read or is not what it should be, or the key is another certificate's.
    """
    authority = _authority(client_authority) if client_authority else None
    return grpc.ssl_server_credentials([_pair(certificate, key)], authority, require_client_auth=authority is not None)


def client_credentials(
    authority: str | Path | None, certificate: str | Path | None, key: str | Path | None
) -> grpc.ChannelCredentials:
    """TLS of the client.

    Args:
        authority: PEM file of who may have signed the server's certificate; `None` is the system's list.
        certificate: PEM file, where the server asks clients for one.
        key: PEM file, its key.

    Raises:
        ValueError: As in `server_credentials`.
    """
    key_pem, certificate_pem = _pair(certificate, key) if certificate and key else (None, None)
    return grpc.ssl_channel_credentials(_authority(authority) if authority else None, key_pem, certificate_pem)


def _pair(certificate: str | Path, key: str | Path) -> tuple[bytes, bytes]:
    """The contents of a key and of its certificate; gRPC itself takes anything, and refuses every handshake later."""
    key_pem, certificate_pem = _read(key, "key"), _read(certificate, "certificate")
    _authority(certificate)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"The key in {key} does not belong to the certificate in {certificate}.") from None
        raise ValueError(
            f"{key} is not an unencrypted private key in PEM form, or not one for {certificate}."
        ) from None
    return key_pem, certificate_pem


def _authority(file: str | Path) -> bytes:
    """The contents of a file of certificates."""
    pem = _read(file, "certificate")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        raise ValueError(f"{file} is not a certificate in PEM form.") from None
    return pem


def _read(file: str | Path, what: str, most: int = 2**20) -> bytes:
    """A small file, which may be a device that never ends."""
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(most + 1)
    except OSError as error:
        raise ValueError(f"The {what} in {file} cannot be read: {error.strerror}.") from None
    if len(content) > most:
        raise ValueError(f"{file} is too long to be a {what}.")
    return content
