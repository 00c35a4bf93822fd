"""`garrison config`: the file that it writes, and what it says of one."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from garrison.cli.config import command
from garrison.errors import Malformed, Misuse
from garrison.formats.digest import digest_text
from garrison.formats.enarx_toml import TEMPLATE
from garrison.testing.tls import Authority, keep, workload

if TYPE_CHECKING:
    from pathlib import Path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_init_writes_the_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mask = os.umask(0o027)
    try:
        assert invoke("init").exit_code == 0
    finally:
        os.umask(mask)
    assert list(tmp_path.iterdir()) == [tmp_path / "Enarx.toml"]
    assert (tmp_path / "Enarx.toml").read_text() == TEMPLATE
    assert (tmp_path / "Enarx.toml").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_init_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "Enarx.toml"
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to("nowhere")
    with pytest.raises(Misuse) as caught:
        invoke("init")
    assert (caught.value.field, caught.value.message) == ("Enarx.toml", "exists already")
    assert list(tmp_path.iterdir()) == [tmp_path / "Enarx.toml"]
    assert path.is_symlink() or path.read_text() == "mine"


def test_check_explains(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    pem = Authority().root_pem
    path.write_text(
        "args = ['a']\n[env]\nSECRET = 'hush'\n"
        "[limits]\nmemory = '64 MiB'\nrun_seconds = 60\n"
        "[network.incoming.8443]\npeers = ['drawbridge.test/jane/chat:^1.0']\n"
        "[network.incoming.80]\nprot = 'tcp'\n"
        "[network.incoming.5353]\nprot = 'udp'\n"
        "[network.outgoing.'dns.test:53']\nprot = 'udp'\n"
        "[network.outgoing.'web.test']\nalpn = ['h2']\n"
        "[network.outgoing.'db.test:5432']\npeers = []\n"
        f"[network.outgoing.'pem.test']\ntrust = '''{pem}'''\n"
        "[network.outgoing.default]\nprot = 'deny'\n"
    )
    text = invoke("check", str(path)).output
    for line in (
        "schema   fosdem",
        "stdin    null",
        "limits   memory 67108864, run_seconds 60",
        "  web.test: TLS; admits the host by its name, certified under the web's roots; speaks h2",
        "  default: TLS; admits anybody; who shows a certificate must be under the steward's roots",
        "  8443: TLS; admits drawbridge.test/jane/chat:^1.0, certified under the steward's roots",
        "  80: plain TCP, in the clear; every peer is anonymous",
        "  5353: plain UDP, in the clear, from anybody; sources can be forged; for components",
        "  dns.test:53: plain UDP, in the clear; sources can be forged; for components",
        "  db.test:5432: TLS; admits nobody, certified under the steward's roots",
        "  pem.test: TLS; admits the host by its name, certified under the roots given as PEM",
        "  default: denied",
    ):
        assert line in text.splitlines()
    assert "hush" not in text
    explained = json.loads(CliRunner().invoke(command, ["check", "--json", str(path)]).stdout)
    assert explained["env"] == ["SECRET"]
    assert explained["limits"]["tmp"] == 256 << 20
    assert explained["outgoing"]["default"] == {"prot": "deny"}
    assert explained["outgoing"]["dns.test:53"] == {"prot": "udp"}
    assert explained["incoming"]["8443"] == {
        "prot": "tls",
        "trust": "steward",
        "host_checked": False,
        "anonymous": False,
        "peers": ["drawbridge.test/jane/chat:^1.0"],
        "alpn": [],
    }
    assert "BEGIN" not in json.dumps(explained)


def test_check_explains_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[[files]]\nkind = 'stdin'\n[[files]]\nkind = 'listen'\nname = 'L'\n")
    lines = invoke("check", str(path)).output.splitlines()
    assert "fd 0     stdin: stdin" in lines
    assert any(line.startswith("fd 1     L: listen [::]:443: TLS; admits any") for line in lines)


def test_check_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("\nnope = 1\n")
    with pytest.raises(Malformed) as caught:
        invoke("check", str(path))
    assert str(caught.value).startswith(f"{path}:2: nope: unknown key")


def test_check_judges_a_peer(tmp_path: Path) -> None:
    path, peer = tmp_path / "x.toml", tmp_path / "peer.pem"
    path.write_text(
        "[network.incoming.1]\npeers = ['drawbridge.test/bob/*', 'any; tee=snp']\n"
        "[network.incoming.2]\npeers = ['any; tee=tdx']\n"
        "[network.incoming.3]\nprot = 'tcp'\n"
        "[network.incoming.4]\nprot = 'udp'\n"
        "[network.outgoing.default]\nprot = 'deny'\n"
    )
    peer.write_bytes(Authority().issue(workload()).chain_pem())
    lines = invoke("check", "--peer", str(peer), str(path)).output.splitlines()
    for line in (
        "  incoming default: admitted, if it is under the steward's roots",
        "  incoming 1: admitted, by any; tee=snp, if it is under the steward's roots",
        "  incoming 3: admitted, plain TCP asks for no certificate",
        "  incoming 4: admitted, plain UDP asks for no certificate",
        "  outgoing default: refused, denied",
    ):
        assert line in lines
    (refused,) = [line for line in lines if line.startswith("  incoming 2: refused")]
    assert "presented drawbridge.test/jane/chat:1.2.3@" in refused
    shown = f"(tee snp, TCB UpToDate, measurement {'22' * 48}); wanted any; tee=tdx"
    assert refused.endswith(shown)
    done = CliRunner().invoke(command, ["check", "--json", "--peer", str(peer), str(path)])
    admitted = {item["endpoint"]: item["admitted"] for item in json.loads(done.stdout)["peer"]}
    assert admitted == {
        "incoming default": True,
        "incoming 1": True,
        "incoming 2": False,
        "incoming 3": True,
        "incoming 4": True,
        "outgoing default": False,
    }


def test_check_judges_descriptors_and_a_keep_without_a_workload(tmp_path: Path) -> None:
    path, peer = tmp_path / "x.toml", tmp_path / "peer.pem"
    path.write_text("[[files]]\nkind = 'listen'\nname = 'L'\npeers = ['any']\n")
    peer.write_bytes(Authority().issue(keep()).chain_pem())
    output = invoke("check", "--peer", str(peer), str(path)).output
    assert "  fd 0 L: refused, the peer is not admitted: presented keep on snp" in output


def test_a_peer_must_be_a_certificate(tmp_path: Path) -> None:
    path, peer = tmp_path / "x.toml", tmp_path / "peer.pem"
    path.write_text("")
    peer.write_text("none")
    with pytest.raises(Malformed) as caught:
        invoke("check", "--peer", str(peer), str(path))
    assert (caught.value.field, caught.value.message) == ("--peer", "not certificates in PEM")


_NARROWED = """
[network.incoming.1]
peers = ['drawbridge.test/jane/*']
[network.incoming.2]
prot = 'tcp'
[network.incoming.3]
trust = 'steward'
[network.outgoing.'db.test:5432']
[network.outgoing.'api.test']
"""
_TENANT = """
[network.incoming.1]
peers = ['any; tee=tdx']
[network.incoming.2]
[network.incoming.4]
[network.outgoing.'db.test:5432']
peers = ['drawbridge.test/jane/db:^1.0']
[network.outgoing.'api.test:444']
"""


def test_check_explains_what_a_deployment_narrows(tmp_path: Path) -> None:
    path, policy = tmp_path / "x.toml", tmp_path / "policy.toml"
    path.write_text(_NARROWED)
    policy.write_text(_TENANT)
    lines = invoke("check", "--policy", str(policy), str(path)).output.splitlines()
    under = "certified under the steward's roots"
    digest = digest_text(sha256(_TENANT.encode()).digest())
    for line in (
        f"policy   {digest}, which narrows what follows",
        f"  1: TLS; admits drawbridge.test/jane/*; and by the tenant any; tee=tdx, {under}",
        "  2: the tenant's policy demands TLS",
        "  3: denied by the tenant's policy",
        "  4: TLS; admits anybody; who shows a certificate must be under the steward's roots",
        f"  db.test:5432: TLS; admits drawbridge.test/jane/db:^1.0, {under}",
        "  api.test: denied by the tenant's policy",
        "  api.test:444: TLS; admits the host by its name, certified under the web's roots",
    ):
        assert line in lines
    # Incoming and outgoing.
    assert lines.count("  default: denied by the tenant's policy") == 2
    done = CliRunner().invoke(command, ["check", "--json", "--policy", str(policy), str(path)])
    explained = json.loads(done.stdout)
    assert explained["policy"] == digest
    assert explained["incoming"]["1"]["tenant_peers"] == ["any; tee=tdx"]
    assert explained["incoming"]["3"] == {"prot": "deny", "why": "denied by the tenant's policy"}


def test_check_judges_a_peer_by_both(tmp_path: Path) -> None:
    path, policy, peer = (tmp_path / name for name in ("x.toml", "policy.toml", "peer.pem"))
    path.write_text(
        "[[files]]\nkind = 'listen'\nname = 'L'\nport = 1\npeers = ['drawbridge.test/jane/*']\n"
        "[[files]]\nkind = 'listen'\nname = 'M'\nport = 2\npeers = ['drawbridge.test/jane/*']\n"
        "[[files]]\nkind = 'listen'\nname = 'N'\nport = 3\n"
    )
    policy.write_text(
        "[network.incoming.1]\npeers = ['any; tee=snp']\n"
        "[network.incoming.2]\npeers = ['any; tee=tdx']\n"
    )
    peer.write_bytes(Authority().issue(workload()).chain_pem())
    options = ("--policy", str(policy), "--peer", str(peer))
    lines = invoke("check", *options, str(path)).output.splitlines()
    assert (
        "  fd 0 L: admitted, by drawbridge.test/jane/*; and by the tenant any; tee=snp, if it is"
        " under the steward's roots"
    ) in lines
    (refused,) = [line for line in lines if line.startswith("  fd 1 M: refused")]
    assert refused.endswith("wanted drawbridge.test/jane/*; and by the tenant any; tee=tdx")
    assert "  fd 2 N: refused, denied by the tenant's policy" in lines


def test_an_empty_policy_leaves_nothing(tmp_path: Path) -> None:
    path, policy = tmp_path / "x.toml", tmp_path / "policy.toml"
    path.write_text(_NARROWED)
    policy.write_text("")
    done = CliRunner().invoke(command, ["check", "--json", "--policy", str(policy), str(path)])
    explained = json.loads(done.stdout)
    rules = [*explained["incoming"].values(), *explained["outgoing"].values()]
    assert len(rules) == 7
    assert {rule["prot"] for rule in rules} == {"deny"}


def test_a_policy_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path, policy = tmp_path / "x.toml", tmp_path / "policy.toml"
    path.write_text("")
    policy.write_text("\nargs = ['wider']\n")
    with pytest.raises(Malformed) as caught:
        invoke("check", "--policy", str(policy), str(path))
    assert str(caught.value).startswith(f"{policy}:2: args: unknown key")
