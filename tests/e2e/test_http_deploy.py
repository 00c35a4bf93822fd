"""Two components that serve HTTP, deployed by slug: each demands the other, and sees who it is."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.testing.stack import free_port

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "component"))
from http_guest import built  # type: ignore[import-not-found]  # (pytest's own way)

if TYPE_CHECKING:
    from garrison.testing.stack import Stack

pytestmark = [pytest.mark.xdist_group("stack")]
pytest.importorskip("ziglang", reason="builds the guest")

_BACK = """
[stderr]
kind = "host"
[network.incoming.{back}]
peers = ["{front_slug}"]
"""
_FRONT = """
[stderr]
kind = "host"
[network.incoming.{front}]
prot = "tcp"
[network.outgoing."localhost:{back}"]
peers = ["{back_slug}"]
[network.outgoing."127.0.0.1:{back}"]
peers = ["{front_slug}"]
[network.outgoing.default]
prot = "deny"
"""


def _fetched(port: int, to: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/fetch", headers={"to": to, "path": "/headers"})
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer


def test_components_that_serve_http_demand_and_see_each_other(stack: Stack, tmp_path: Path) -> None:
    wasm = built(tmp_path)
    ports = {"front": free_port(), "back": free_port()}
    slugs = {f"{name}_slug": stack.slug(f"{name}:0.1.0") for name in ports}
    for name, config in (("front", _FRONT), ("back", _BACK)):
        package = tmp_path / name
        package.mkdir()
        (package / "main.wasm").write_bytes(wasm)
        (package / "Enarx.toml").write_text(config.format(**ports, **slugs))
        stack.register_repo(name, "--private", "--keep", "tee=snp")
        stack.publish(package, f"{name}:0.1.0")
    keeps = [stack.deploy(f"{name}:0.1.0", name) for name in ("back", "front")]
    try:
        for keep in keeps:
            keep.expect("listening for HTTP")
        said = _fetched(ports["front"], f"localhost:{ports['back']}").splitlines()
        assert said[0] == "200"
        # Who answered, as the front sees it; and in what it answered, who asked.
        first = said.index(f"garrison-peer-workload: {slugs['back_slug']}")
        second = said.index(f"garrison-peer-workload: {slugs['front_slug']}")
        assert first < second
        assert said.count("garrison-peer-kind: keep") == 2
        # By another rule the same server is not the one that is demanded: TLS-certificate-error.
        assert _fetched(ports["front"], f"127.0.0.1:{ports['back']}") == "error 13"
        assert _fetched(ports["front"], "localhost:1") == "error 15"
        # The back admits the front alone, and nobody without TLS.
        with pytest.raises((http.client.HTTPException, OSError)):
            _fetched(ports["back"], "localhost:1")
    finally:
        codes = [keep.stop() for keep in keeps]
    assert codes == [143, 143]
