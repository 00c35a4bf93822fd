"""The server loop as a real process, over TLS."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from tests.unit.service.sample import Server, ask, running

from garrison.errors import Misuse, Unavailable
from garrison.service.server import Settings, serve
from garrison.service.tls import server_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.service.conftest import Pki

    from garrison.service.worker import Hosted


@pytest.fixture(scope="module")
def server(pki: Pki) -> Iterator[Server]:
    with running(pki) as started:
        yield started


def name_of(answer: dict[str, str | None]) -> str:
    assert answer["client"] is not None
    certificate = x509.load_der_x509_certificate(bytes.fromhex(answer["client"]))
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_each_connection_shows_its_own_client_certificate(server: Server, pki: Pki) -> None:
    """Connections that are open at once, each asked several times, never mix."""
    one, two = (server.connect(client) for client in pki.clients)
    nobody = server.connect()
    with contextlib.closing(one), contextlib.closing(two), contextlib.closing(nobody):
        for _ in range(3):
            assert name_of(ask(one)) == "one"
            assert ask(nobody)["client"] is None
            assert name_of(ask(two)) == "two"


def test_client_certificate_of_a_stranger_ends_the_handshake(server: Server, pki: Pki) -> None:
    connection = server.connect(pki.stranger)
    with contextlib.closing(connection), pytest.raises((ssl.SSLError, ConnectionError)):
        ask(connection)


def test_tls_1_2_is_refused(server: Server, pki: Pki) -> None:
    context = ssl.create_default_context(cafile=str(pki.root))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("localhost", server.port)) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("chunked", [False, True])
def test_long_body_is_refused_before_it_is_read(server: Server, chunked: bool) -> None:
    with contextlib.closing(server.connect()) as connection:
        body = iter([b"x" * 6, b"x" * 6]) if chunked else b"x" * 12
        connection.request("POST", "/large", body, encode_chunked=chunked)
        with connection.getresponse() as response:
            assert response.status == 413
            assert response.headers["Content-Type"] == "application/problem+json"
            problem = json.loads(response.read())
    assert problem["checks"][0]["expected"] == "at most 10 bytes"
    assert problem["instance"].startswith("urn:garrison:request:")


def test_body_within_the_limit_is_read(server: Server) -> None:
    with contextlib.closing(server.connect()) as connection:
        connection.request("POST", "/large", b"x" * 10)
        with connection.getresponse() as response:
            assert json.loads(response.read()) == {"length": 10}


def test_log_has_no_query_string_and_no_header(pki: Pki) -> None:
    with running(pki) as server:
        assert server.line == f"sample listening on https://localhost:{server.port}\n"
        with contextlib.closing(server.connect(pki.clients[0])) as connection:
            connection.request("GET", "/?token=s3cret", headers={"Authorization": "Bearer t0ken"})
            connection.getresponse().read()
            connection.request("GET", "/broken")
            with connection.getresponse() as response:
                assert response.status == 500
                assert b"defect" not in response.read()
        code, out, err = server.end()
    assert (code, out) == (0, "")
    assert "s3cret" not in err
    assert "t0ken" not in err
    lines = [json.loads(line) for line in err.splitlines()]
    (first, second) = [line for line in lines if line["event"] == "request"]
    assert (first["path"], first["status"], first["authenticated"]) == ("/", 200, True)
    assert (second["status"], second["level"]) == (500, "error")
    assert len(first["request_id"]) == 16
    assert first["request_id"] != second["request_id"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly(pki: Pki, how: signal.Signals) -> None:
    with running(pki, json_output=True) as server:
        assert json.loads(server.line) == {
            "event": "listening",
            "url": f"https://localhost:{server.port}",
        }
        assert server.end(how) == (0, "", "")


def nothing() -> Hosted:
    """What is never asked for."""
    raise AssertionError


def test_port_in_use_is_unavailable(pki: Pki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Unavailable) as caught:
        serve(
            nothing,
            Settings(
                name="x",
                host="127.0.0.1",
                port=taken.getsockname()[1],
                certificate=pki.certificate,
                key=pki.key,
            ),
        )
    assert "cannot listen" in str(caught.value)


@pytest.mark.parametrize("wrong", ["certificate", "key", "client_ca"])
def test_unusable_files_are_misuse(pki: Pki, tmp_path: Path, wrong: str) -> None:
    files: dict[str, Path] = {
        "certificate": pki.certificate,
        "key": pki.key,
        "client_ca": pki.root,
    }
    files[wrong] = tmp_path / "file"
    for content in (None, "text"):
        if content is not None:
            files[wrong].write_text(content)
        with pytest.raises(Misuse) as caught:
            serve(
                nothing,
                Settings(
                    name="x",
                    host="127.0.0.1",
                    port=0,
                    certificate=files["certificate"],
                    key=files["key"],
                    client_ca=files["client_ca"],
                ),
            )
        assert str(files[wrong]) in str(caught.value)


def test_encrypted_key_is_misuse_and_asks_nobody(pki: Pki, tmp_path: Path) -> None:
    key = load_pem_private_key(pki.key.read_bytes(), None)
    encrypted = tmp_path / "key"
    encrypted.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    )
    with pytest.raises(Misuse, match="encrypted"):
        server_context(pki.certificate, encrypted, None)
