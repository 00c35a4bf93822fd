"""The tenant's side of a host's agent."""

from __future__ import annotations

import json
import os
import selectors
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import certifi
import urllib3

from garrison import http_pools
from garrison.drawbridge.wire import checked_token
from garrison.errors import Malformed, Misuse, Rejected, Unavailable, Unverified

if TYPE_CHECKING:
    from collections.abc import Iterator

    from garrison.host.spec import KeepSpec

_MAX_ANSWER = 1 << 22
_CONNECT_SECONDS = 10.0
_TIMEOUT = urllib3.Timeout(connect=_CONNECT_SECONDS, read=60)
_CHUNK = 1 << 16
_MAX_HEADER = 1 << 14


class HostClient:
    """Asks one host's agent."""

    def __init__(self, url: str, *, ca_pem: str | None, token: str | None) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: `https://host[:port]`.
            ca_pem: the CAs of the agent's TLS, PEM; None for the web's roots.
            token: the tenant's token for this host.

        Raises:
            Misuse: the URL is not https, or there is no token.
            Malformed: `ca_pem` is not PEM certificates, or `token` is no bearer token.
        """
        try:
            parts = urlsplit(url)
            # The port is read when it is asked for.
            port = 443 if parts.port is None else parts.port
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme != "https" or not parts.hostname or not port or parts.path.strip("/"):
            raise Misuse(
                "not the URL of a host", field="--host", found=repr(url[:200]),
                expected="https://HOST[:PORT]",
            )  # fmt: skip
        if token is None:
            raise Misuse(
                "no token for this host",
                field="--host",
                found=parts.netloc,
                hint=f"log in: garrison user login {parts.netloc}",
            )
        self.name = parts.hostname
        self.port = port
        self._url = url.rstrip("/")
        self._token = checked_token(token)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if ca_pem is None:
                self._context.load_verify_locations(certifi.where())
            else:
                self._context.load_verify_locations(cadata=ca_pem)
        except (ssl.SSLError, ValueError) as error:
            raise Malformed("not PEM certificates", field="--host-ca") from error
        self._pool = http_pools.pools(ssl_context=self._context, retries=False, timeout=_TIMEOUT)

    def make(self, spec: KeepSpec) -> dict[str, Any]:
        """Ask for a keep, and return what the host says of it.

        Raises:
            Rejected: the host refuses.
            Unavailable: it cannot be reached, or fails.
        """
        return self._json("POST", "/v1/keeps", body=spec.to_json())

    def keeps(self) -> list[dict[str, Any]]:
        """The tenant's keeps, the oldest first."""
        found = self._json("GET", "/v1/keeps").get("keeps")
        if not isinstance(found, list):
            raise Malformed("no list of keeps", field=self._url)
        return found

    def keep(self, name: str) -> dict[str, Any]:
        """What the host says of one keep."""
        return self._json("GET", f"/v1/keeps/{name}")

    def end(self, name: str) -> None:
        """End a keep, or forget one that has ended."""
        self._request("DELETE", f"/v1/keeps/{name}").close()

    def log(self, name: str, *, follow: bool) -> Iterator[dict[str, str]]:
        """What a keep printed, line by line: `time`, `stream` and `text`.

        Raises:
            Malformed: what comes is no log.
            Unavailable: the connection is lost.
        """
        response = self._request(
            "GET", f"/v1/keeps/{name}/log" + ("?follow=1" if follow else ""), endless=follow
        )
        rest = b""
        try:
            while chunk := response.read1(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from map(self._line, lines)
                if len(rest) > _MAX_ANSWER:
                    raise Malformed("a line without end", field=self._url)
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"the host is gone: {error}", field=self._url) from error
        finally:
            response.close()

    def attach(self, name: str, incoming: int, outgoing: int) -> None:
        """Carry `incoming` (a descriptor) to the keep's input, and its output to `outgoing`.

        It returns when the keep has ended, or the host closes.

        Raises:
            Rejected: the host refuses.
            Unavailable: it cannot be reached, or fails.
        """
        try:
            plain = socket.create_connection((self.name, self.port), timeout=_CONNECT_SECONDS)
            with self._context.wrap_socket(plain, server_hostname=self.name) as connection:
                head = (
                    f"POST /v1/keeps/{name}/attach HTTP/1.1\r\nHost: {self.name}:{self.port}\r\n"
                    f"Authorization: Bearer {self._token}\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                connection.sendall(head.encode())
                body = self._answer(connection)
                _carry(connection, _Chunks(body), incoming, outgoing)
        except ssl.SSLCertVerificationError as error:
            raise self._untrusted(error) from error
        except OSError as error:
            raise Unavailable(f"the host cannot be reached: {error}", field=self._url) from error

    def _answer(self, connection: ssl.SSLSocket) -> bytes:
        """Read the head of the answer, and return what came after it."""
        data, late = b"", time.monotonic() + http_pools.HEAD_SECONDS
        while b"\r\n\r\n" not in data:
            if (left := late - time.monotonic()) <= 0:
                raise Unavailable("the host's answer comes too slowly", field=self._url)
            connection.settimeout(left)
            chunk = connection.recv(_CHUNK)
            if not chunk or len(data) > _MAX_HEADER:
                raise Unavailable("the host does not answer", field=self._url)
            data += chunk
        connection.settimeout(_CONNECT_SECONDS)
        head, _, body = data.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        if status != [b"200"]:
            raise Rejected(
                "the host refuses",
                field=self._url,
                found=head.partition(b"\r\n")[0].decode("latin-1")[:80],
            )
        return body

    def _line(self, line: bytes) -> dict[str, str]:
        try:
            fields = json.loads(line)
            return {name: str(fields[name]) for name in ("time", "stream", "text")}
        except (ValueError, KeyError, TypeError) as error:
            raise Malformed("not a line of a log", field=self._url) from error

    def _json(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        response = self._request(method, path, **arguments)
        try:
            value = json.loads(http_pools.read_body(response, _MAX_ANSWER))
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"the host's answer broke off: {error}", field=self._url) from error
        except (ValueError, RecursionError) as error:
            raise Malformed("not JSON", field=self._url) from error
        finally:
            response.close()
        if not isinstance(value, dict):
            raise Malformed("not a JSON object", field=self._url)
        return value

    def _request(
        self, method: str, path: str, *, endless: bool = False, **arguments: Any
    ) -> urllib3.BaseHTTPResponse:
        if endless:
            arguments["timeout"] = urllib3.Timeout(connect=_CONNECT_SECONDS, read=None)
        try:
            response = self._pool.request(
                method,
                self._url + path,
                headers={"Authorization": f"Bearer {self._token}"},
                redirect=False,
                preload_content=False,
                **arguments,
            )
        except urllib3.exceptions.SSLError as error:
            raise self._untrusted(error) from error
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"the host cannot be reached: {error}", field=self._url) from error
        if response.status >= 300:
            raise self._refusal(response)
        return response

    def _untrusted(self, error: Exception) -> Unverified:
        return Unverified(
            f"the host's TLS certificate is not accepted: {error}",
            field=self._url,
            hint="give its CA with --host-ca",
        )

    def _refusal(self, response: urllib3.BaseHTTPResponse) -> Exception:
        try:
            problem = json.loads(http_pools.read_body(response, _MAX_ANSWER))
            detail = str(problem["detail"])[:500]
        except (ValueError, KeyError, TypeError, RecursionError, urllib3.exceptions.HTTPError):
            detail = "no reason given"
        finally:
            response.close()
        kind = Unavailable if response.status >= 500 else Rejected
        return kind(f"the host refuses ({response.status}): {detail}", field=self._url)


class _Chunks:
    """Takes a body in chunks (RFC 9112, section 7.1) apart, as it comes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.ended = False

    def take(self, data: bytes) -> bytes:
        """What `data` adds to the content."""
        self._data += data
        content = b""
        while not self.ended:
            size, line, rest = self._data.partition(b"\r\n")
            if not line:
                if len(size) > _MAX_HEADER:
                    raise Malformed("a chunk without a length", field="the host's answer")
                break
            try:
                length = int(size.partition(b";")[0], 16)
            except ValueError as error:
                raise Malformed("not a chunk", field="the host's answer") from error
            if len(rest) < length + 2:
                if length > _MAX_ANSWER:
                    raise Malformed(
                        "too long a chunk",
                        field="the host's answer",
                        found=f"{length} bytes",
                        expected=f"at most {_MAX_ANSWER}",
                    )
                break
            content += rest[:length]
            self._data = rest[length + 2 :]
            self.ended = length == 0
        return content


def _carry(connection: ssl.SSLSocket, chunks: _Chunks, incoming: int, outgoing: int) -> None:
    """Both directions in one thread: a TLS object must not be used by two."""
    with selectors.DefaultSelector() as selector:
        selector.register(incoming, selectors.EVENT_READ)
        selector.register(connection, selectors.EVENT_READ)
        _write(outgoing, chunks.take(b""))
        while not chunks.ended:
            for key, _ in selector.select():
                if key.fd == incoming:
                    data = os.read(incoming, _CHUNK)
                    connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))
                    if not data:
                        # The end of our input is the end of the body; the output goes on.
                        selector.unregister(incoming)
                    continue
                while True:
                    data = connection.recv(_CHUNK)
                    if not data:
                        return
                    _write(outgoing, chunks.take(data))
                    if not connection.pending():
                        break


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
