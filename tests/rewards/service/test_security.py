"""What may listen where, what may be sent where, and how tokens are read and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewards.service.security import (
    TOKEN_VARIABLE,
    Insecure,
    authorises,
    check_listening,
    client_credentials,
    is_loopback,
    read_token,
    server_credentials,
    split_address,
)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051),
        ("[::1]:0", "::1", 0),
        ("rewards.example:65535", "rewards.example", 65535),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1", ":50051", "host:", "host:x", "host:65536", "host:-1", "::1:50051"]
)
def test_anything_else_is_not_an_address(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_may_be_listened_on_without_anything(host: str) -> None:
    assert is_loopback(host)
    check_listening(host, encrypted=False, authenticated=False, insecure=False)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", "127.0.0.1.example"]
)
@pytest.mark.parametrize(
    ("encrypted", "authenticated", "words"),
    [(False, False, "TLS .* and a token"), (True, False, "a token"), (False, True, "TLS")],
)
def test_anywhere_else_lacks_what_it_lacks(host: str, encrypted: bool, authenticated: bool, words: str) -> None:
    with pytest.raises(Insecure, match=words) as error:
        check_listening(host, encrypted=encrypted, authenticated=authenticated, insecure=False)
    assert "--insecure" in str(error.value)
    check_listening(host, encrypted=encrypted, authenticated=authenticated, insecure=True)
    check_listening(host, encrypted=True, authenticated=True, insecure=False)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "secret",
        "bearer secret",
        "Bearer",
        "Bearer ",
        "Bearer secre",
        "Bearer secrets",
        "Bearer sécret",
        b"\xff",
    ],
)
def test_no_header_but_the_right_one_authorises(header: str | bytes | None) -> None:
    assert not authorises(header, "secret")


def test_the_right_header_authorises() -> None:
    assert authorises("Bearer secret", "secret")
    assert authorises(b"Bearer secret", "secret")


def test_a_token_comes_from_the_file_or_else_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("of-the-file\n")
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "of-the-environment")
    assert read_token(None) == "of-the-environment"
    assert read_token(tmp_path / "token") == "of-the-file"


@pytest.mark.parametrize("token", ["", "two words", "tökén", "a\nb", "a\x00b"])
def test_a_token_that_cannot_be_one_is_refused_and_not_repeated(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token)
    with pytest.raises(ValueError, match="no usable token") as error:
        read_token(tmp_path / "token")
    assert not token or token not in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a" * 4097, b"a" * 10_000_000])
def test_a_file_that_holds_no_token_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ValueError, match=r"/token (holds no usable|is too long to be a) token") as error:
        read_token(tmp_path / "token")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(("file", "why"), [("nowhere", "No such file"), (".", "Is a directory")])
def test_a_token_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, file: str, why: str) -> None:
    with pytest.raises(ValueError, match=rf"The token in .* cannot be read: {why}"):
        read_token(tmp_path / file)


MakeAuthority = Callable[[str], Any]  # conftest's


def test_certificates_with_their_keys_are_taken_by_both_ends(make_authority: MakeAuthority) -> None:
    authority = make_authority("authority")
    certificate, key = authority.issue("server")
    server_credentials(certificate, key, None)
    server_credentials(certificate, key, authority.file)
    client_credentials(authority.file, certificate, key)
    client_credentials(None, None, None)


@pytest.mark.parametrize("content", [b"", b"not PEM", b"\x00\xff" * 100, b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("place", ["certificate", "key", "authority"])
def test_what_is_not_pem_is_refused_by_its_name(make_authority: MakeAuthority, content: bytes, place: str) -> None:
    authority = make_authority("authority")
    certificate, key = authority.issue("server")
    {"certificate": certificate, "key": key, "authority": authority.file}[place].write_bytes(content)
    for make in (server_credentials, lambda *files: client_credentials(files[2], *files[:2])):
        with pytest.raises(ValueError, match=rf"{'server' if place != 'authority' else 'authority'}\..*PEM form"):
            make(certificate, key, authority.file)


def test_a_key_of_another_certificate_is_refused(make_authority: MakeAuthority) -> None:
    authority = make_authority("authority")
    (certificate, _), (_, key) = authority.issue("one"), authority.issue("two")
    with pytest.raises(ValueError, match=r"two\.key does not belong to the certificate in .*one\.pem"):
        server_credentials(certificate, key, None)
    with pytest.raises(ValueError, match="does not belong"):
        client_credentials(None, certificate, key)


def test_a_certificate_in_the_place_of_a_key_is_refused(make_authority: MakeAuthority) -> None:
    certificate, _ = make_authority("authority").issue("one")
    with pytest.raises(ValueError, match=r"one\.pem is not an unencrypted private key"):
        server_credentials(certificate, certificate, None)
