"""A real OCI registry for tests: Debian's `docker-registry` over a folder, with TLS, on loopback.

With `auth="basic"` it demands a password, with `auth="token"` a token of the server that stands
beside it then, as the large registries do: whoever asks may pull, and who has the password push.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from base64 import b64encode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.drawbridge.oci_auth import Login
from garrison.testing.stack import reserve_port, wait_until_listening

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from garrison.testing.tls import Authority, Leaf

PROGRAM = "docker-registry"
LOGIN = Login("jane", "a registry password")
# The registry knows passwords by bcrypt alone.
_HTPASSWD = "jane:$2b$04$Bmj3dqCiecgs1WUo/1VSkub3cFN193KJ56yWBNjF/mB7Qk8qi6U.q\n"
_ISSUER = "garrison tests"
_SERVICE = "test registry"


def find() -> str | None:
    """Where the registry's program is, or None."""
    return shutil.which(PROGRAM)


@dataclass
class OciRegistry:
    """A registry with nothing in it. Use it as a context manager.

    Attributes:
        directory: an empty one, where it keeps everything.
        authority: issues its TLS certificate.
        auth: what it demands of its clients.
        host: where it listens.
    """

    directory: Path
    authority: Authority
    auth: Literal["none", "basic", "token"] = "none"
    host: str = ""
    _process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _holder: socket.socket = field(init=False, repr=False)
    _tokens: _TokenServer | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Self:
        program = find()
        if program is None:
            raise FileNotFoundError(PROGRAM)
        self.directory.mkdir(exist_ok=True)
        leaf = self.authority.issue(hosts=("localhost",))
        files = {"cert": leaf.chain_pem(), "key": leaf.key_pem(), "htpasswd": _HTPASSWD.encode()}
        files["issuers"] = self.authority.root_pem.encode()
        for name, content in files.items():
            (self.directory / name).write_bytes(content)
        self._holder = reserve_port()
        port = self._holder.getsockname()[1]
        self.host = f"localhost:{port}"
        if self.auth == "token":
            self._tokens = _TokenServer(leaf)
        config = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "root")}},
            "http": {
                "addr": f"127.0.0.1:{port}",
                "host": f"https://{self.host}",
                "secret": "insecure-test-secret",
                "tls": {
                    "certificate": str(self.directory / "cert"),
                    "key": str(self.directory / "key"),
                },
            },
            **({"auth": self._auth()} if self.auth != "none" else {}),
        }
        # JSON is YAML.
        (self.directory / "config.yml").write_text(json.dumps(config))
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, "serve", str(self.directory / "config.yml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until_listening(PROGRAM, self._process, port, self.directory / "log")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _auth(self) -> dict[str, Any]:
        if self._tokens is None:
            htpasswd = str(self.directory / "htpasswd")
            return {"htpasswd": {"realm": "tests", "path": htpasswd}}
        return {
            "token": {
                "realm": self._tokens.url,
                "service": _SERVICE,
                "issuer": _ISSUER,
                "rootcertbundle": str(self.directory / "issuers"),
            }
        }

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._holder.close()
        if self._tokens is not None:
            self._tokens.stop()


class _TokenServer:
    """Gives out the tokens that a registry believes: to pull to everybody, to push by password."""

    def __init__(self, leaf: Leaf) -> None:
        x5c = [b64encode(item.public_bytes(Encoding.DER)).decode() for item in leaf.chain]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                shown = self.headers.get("Authorization")
                if shown not in {None, LOGIN.to_header()}:
                    self.send_error(401)
                    return
                actions = ["pull", "push"] if shown else ["pull"]
                kind, name, _ = query["scope"][0].split(":")
                now = int(time.time())
                claims = {
                    "iss": _ISSUER,
                    "sub": "",
                    "aud": query["service"][0],
                    "exp": now + 300,
                    "nbf": now - 10,
                    "iat": now,
                    "jti": "1",
                    "access": [{"type": kind, "name": name, "actions": actions}],
                }
                token = jwt.encode(claims, leaf.key, algorithm="ES256", headers={"x5c": x5c})
                body = json.dumps({"token": token}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        context = leaf.server_context()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"https://localhost:{self._server.server_address[1]}/token"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
