"""Components that a foreign toolchain makes of its own published examples, deployed by slug.

The published HTTP server runs unchanged, demands who may be there, and is demanded itself. Another
server of the same toolchain, `examples/languages/python-http`, tells whom it sees.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.testing.stack import free_port

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "component"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "languages"))
from build import LANGUAGES  # type: ignore[import-not-found]  # (not ours)
from http_guest import built  # type: ignore[import-not-found]  # (pytest's own way)
from published_examples import compiler, example  # type: ignore[import-not-found]  # (likewise)

if TYPE_CHECKING:
    from garrison.testing.stack import Stack

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.slow]
pytest.importorskip("ziglang", reason="builds the guests that ask")

# An attested keep compiles for itself, an interpreter is large, and machines are loaded.
_SECONDS = 600.0

# Two ports: one for the client alone, and one for whoever trusts the steward's root.
_SERVER = """
[stdout]
kind = "host"
[stderr]
kind = "host"
[network.incoming.{demanding}]
peers = ["{client}"]
[network.incoming.{open}]
"""
_PUBLISHED = """
[network.outgoing."localhost:{back}"]
peers = ["{back_slug}"]
[network.outgoing."127.0.0.1:{back}"]
peers = ["{client}"]
[network.outgoing.default]
prot = "deny"
"""
_BACK = """
[stderr]
kind = "host"
[network.incoming.{back}]
peers = ["{published}"]
"""
_CLIENT = """
[stderr]
kind = "host"
[network.incoming.{port}]
prot = "tcp"
[network.outgoing."localhost:{demanding}"]
peers = ["{server}"]
[network.outgoing.default]
prot = "deny"
"""


def _publish(stack: Stack, folder: Path, name: str, wasm: bytes, config: str) -> None:
    package = folder / name
    package.mkdir()
    (package / "main.wasm").write_bytes(wasm)
    (package / "Enarx.toml").write_text(config)
    stack.register_repo(name, "--private", "--keep", "tee=snp")
    stack.publish(package, f"{name}:0.1.0")


def _asked(port: int, to: int, path: str = "/") -> str:
    """What the keep at `port` got when it asked the one at `to`; first its status, or the error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/fetch", headers={"to": f"localhost:{to}", "path": path})
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer


def _client(stack: Stack, port: int) -> http.client.HTTPSConnection:
    """A client that is no keep: it has no certificate."""
    context = ssl.create_default_context(cafile=str(stack.steward_root))
    # A keep's certificate is for what it runs, not for this host.
    context.check_hostname = False
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)


def test_the_published_http_server_demands_and_is_demanded(stack: Stack, tmp_path: Path) -> None:
    wasm = example("http")
    guest = built(tmp_path)
    names = ("demanding", "open", "back", "admitted", "refused")
    ports = {name: free_port() for name in names}
    slugs = {name: stack.slug(f"{name}:0.1.0") for name in ("published", "client", "stranger")}
    back_slug = stack.slug("published-back:0.1.0")
    config = (_SERVER + _PUBLISHED).format(**ports, **slugs, back_slug=back_slug)
    _publish(stack, tmp_path, "published", wasm, config)
    _publish(stack, tmp_path, "published-back", guest, _BACK.format(**ports, **slugs))
    given = {"demanding": ports["demanding"], "server": slugs["published"]}
    _publish(stack, tmp_path, "client", guest, _CLIENT.format(port=ports["admitted"], **given))
    _publish(stack, tmp_path, "stranger", guest, _CLIENT.format(port=ports["refused"], **given))
    deployed = ("published", "published-back", "client", "stranger")
    keeps = {name: stack.deploy(f"{name}:0.1.0", name) for name in deployed}
    try:
        for keep in keeps.values():
            keep.expect("listening for HTTP", seconds=_SECONDS)
        # The right slug gets in, and sees who it is that answers; 400 is what the example says to
        # a path that it does not know.
        answer = _asked(ports["admitted"], ports["demanding"]).splitlines()
        assert answer[0] == "400"
        assert f"garrison-peer-workload: {slugs['published']}" in answer
        # The same program under another slug does not, and nor does who is no keep at all.
        assert _asked(ports["refused"], ports["demanding"]).startswith("error ")
        refused = keeps["published"].expect("refused")
        assert slugs["stranger"] in refused
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            _echoed(stack, ports["demanding"])
        keeps["published"].expect("refused")
        # Where anybody may be, it does what its README says.
        assert _echoed(stack, ports["open"]) == _TEXT
        _check_hashes(stack, ports)
    finally:
        codes = [keep.stop() for keep in keeps.values()]
    assert codes == [143] * len(keeps)


_TEXT = b"A text of several lines,\nwhich comes back.\n" * 1000


def _echoed(stack: Stack, port: int) -> bytes:
    connection = _client(stack, port)
    try:
        connection.request("POST", "/echo", _TEXT, {"content-type": "text/plain"})
        answer = connection.getresponse()
        assert (answer.status, answer.headers["content-type"]) == (200, "text/plain")
        return answer.read()
    finally:
        connection.close()


def _check_hashes(stack: Stack, ports: dict[str, int]) -> None:
    """It asks other servers: the one that its rule demands answers, and sees who asks."""
    connection = _client(stack, ports["open"])
    url = f"http://localhost:{ports['back']}/any"
    connection.request("GET", "/hash-all", headers={"url": url})
    answer = connection.getresponse()
    found = answer.read().decode()
    connection.close()
    assert found == f"{url}: {hashlib.sha256(b'hello').hexdigest()}\n"
    # The same server under the rule of another: the example knows no such error, and breaks off.
    connection = _client(stack, ports["open"])
    connection.request("GET", "/hash-all", headers={"url": url.replace("localhost", "127.0.0.1")})
    with pytest.raises(http.client.HTTPException):
        connection.getresponse().read()
    connection.close()


def test_a_python_server_sees_who_asks_and_nobody_can_forge_it(
    stack: Stack, tmp_path: Path
) -> None:
    compiler()
    LANGUAGES["python-http"].build("server", tmp_path / "server.wasm")
    ports = {name: free_port() for name in ("demanding", "open", "admitted")}
    shown, asker = stack.slug("shown:0.1.0"), stack.slug("asker:0.1.0")
    wasm = (tmp_path / "server.wasm").read_bytes()
    _publish(stack, tmp_path, "shown", wasm, _SERVER.format(**ports, client=asker))
    config = _CLIENT.format(port=ports["admitted"], demanding=ports["demanding"], server=shown)
    _publish(stack, tmp_path, "asker", built(tmp_path), config)
    keeps = {name: stack.deploy(f"{name}:0.1.0", name) for name in ("shown", "asker")}
    try:
        for keep in keeps.values():
            keep.expect("listening for HTTP", seconds=_SECONDS)
        assert _asked(ports["admitted"], ports["demanding"]).startswith("200\n")
        peer = _peer(keeps["shown"].expect("peer "))
        assert (peer["kind"], peer["workload"], peer["tee"]) == ("keep", asker, "snp")
        assert peer["measurement"] == stack.measurement
        connection = _client(stack, ports["open"])
        forged = {"garrison-peer-kind": "keep", "Garrison-Peer-Workload": asker,
                  "garrison_peer_tee": "snp"}  # fmt: skip
        connection.request("POST", "/", b"good morning", forged)
        assert connection.getresponse().read() == b"good morning"
        connection.close()
        assert _peer(keeps["shown"].expect("peer ")) == {"kind": "anonymous"}
    finally:
        codes = [keep.stop() for keep in keeps.values()]
    assert codes == [143] * len(keeps)


def _peer(line: str) -> dict[str, str]:
    peer: dict[str, str] = json.loads(line.partition("peer ")[2])
    return peer


def test_the_published_command_runs_to_its_end(stack: Stack, tmp_path: Path) -> None:
    _publish(stack, tmp_path, "command", example("cli"), '[stdout]\nkind = "host"\n')
    done = stack.run(*stack.deploy_arguments("command:0.1.0"), seconds=_SECONDS)
    assert (done.returncode, done.stdout) == (0, "Hello, world!\n"), done.stderr
