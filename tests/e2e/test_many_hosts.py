"""Thirty keeps on three hosts, with two replicas of each service, through all that befalls them.

Every machine is a network namespace. The replicas of a service are both at work, behind one name
that has both addresses: a client takes the first that answers. The stewards share the directory of
keys, policy and deny list, as replicas have to, and each has an issuance log of its own.

Properties: nobody is ever admitted who should not be; no connection is lost but where a server
ends; every certificate is in the log of one replica, and both have issued some.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from garrison.testing.namespaces import CannotError, Fabric, Machine
from garrison.testing.stack import GARRISON, Process

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("many-hosts")]

_EXAMPLES = Path(__file__).parents[2] / "examples"
_TOPOLOGY: dict[str, Any] = tomllib.loads(
    (Path(__file__).parent / "topology.toml").read_text(encoding="utf-8")
)
_STREAMS = '[stdout]\nkind = "host"\n[stderr]\nkind = "host"\n'
_STEWARD_PORT, _DRAWBRIDGE_PORT, _HOST_PORT = 3000, 8080, 8444
_POLL_SECONDS = 1
# Short, so that every keep renews its certificate while the test runs, some on a bad line.
_LIFETIME_MINUTES = 3
_RENEWED = "certified anew"


class World:
    """All machines, and what runs on them."""

    def __init__(self, fabric: Fabric, directory: Path) -> None:
        self.directory = directory
        self.processes: list[Process] = []
        (directory / "home").mkdir()
        self.replicas = [fabric.machine(address) for address in _TOPOLOGY["replicas"]]
        self.hosts = [fabric.machine(address) for address in _TOPOLOGY["hosts"]]
        self.tenant = fabric.machine(_TOPOLOGY["tenant"])
        self._name_services()
        self.registry = f"{_TOPOLOGY['drawbridge']}:{_DRAWBRIDGE_PORT}"
        self.services: dict[tuple[str, int], Process] = {}
        self.keeps: dict[str, Machine] = {}

    def _name_services(self) -> None:
        """What the names of the services mean on each machine."""
        addresses = [machine.address for machine in self.replicas]
        first = dict(zip(self.hosts, _TOPOLOGY["prefer"], strict=True))
        # A replica listens on its own address.
        first |= {machine: number for number, machine in enumerate(self.replicas)}
        for machine in (*self.hosts, *self.replicas, self.tenant):
            number = first.get(machine, 0)
            for kind in ("steward", "drawbridge"):
                machine.name(_TOPOLOGY[kind], addresses[number:] + addresses[:number])

    # Commands.

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory / "home"),
            "LANG": "C.UTF-8",
        }

    def run(self, machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            machine.command(*GARRISON, *arguments),
            env=self.environment, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip

    def command(self, machine: Machine, *arguments: str) -> str:
        done = self.run(machine, *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def start(self, machine: Machine, name: str, *arguments: str) -> Process:
        process = Process(name, machine.command(*GARRISON, *arguments), self.environment)
        self.processes.append(process)
        process.expect("listening on https://")
        return process

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop()

    # Services.

    def prepare(self) -> None:
        """Keys, and everything that is there before a machine is switched on."""
        path = self.directory
        here = self.tenant
        self.command(here, "platform", "insecure-simulator", "--name", "t", str(path / "sim"))
        self.measurement = self.command(here, "image", "measure").strip()
        self.command(
            here, "steward", "init", str(path / "steward"), "--trust-domain", "many.test",
            "--host", _TOPOLOGY["steward"],
        )  # fmt: skip

    def policy(self, denied: str = "") -> str:
        spki = json.loads((self.directory / "sim/simulator.json").read_text())["key_sha256"]
        ca = self.directory / "drawbridge/tls/ca.pem"
        return f"""
trust_domain = "many.test"
freshness = "required"
[certificates]
lifetime_minutes = {_LIFETIME_MINUTES}
[drawbridges."{self.registry}"]
ca = "{ca}"
[deny]
poll_seconds = {_POLL_SECONDS}
{denied}
[snp]
measurements = ["{self.measurement}"]
products = ["Milan"]
minimum_tcb = "any"
id_key_digests = "any"
author_key_digests = "any"
host_data = "any"
chip_ids = "any"
endorsements = []
[snp.insecure_simulated_roots.t]
key_sha256 = "{spki}"
endorsements = "{self.directory / "sim"}"
"""

    def serve(self, kind: str, replica: int) -> None:
        """Start a service on a replica."""
        if kind == "drawbridge":
            arguments = [
                "--insecure-dev", "--store", str(self.directory / "drawbridge"),
                "--client-ca", str(self.directory / "steward/root.pem"),
                "--port", str(_DRAWBRIDGE_PORT),
            ]  # fmt: skip
        else:
            (self.directory / "policy.toml").write_text(self.policy())
            arguments = [
                "--dir", str(self.directory / "steward"), "--port", str(_STEWARD_PORT),
                "--policy", str(self.directory / "policy.toml"),
                "--issuance-log", str(self.issuance_log(replica)),
            ]  # fmt: skip
        self.services[kind, replica] = self.start(
            self.replicas[replica], f"{kind} {replica}",
            kind, "serve", "--host", _TOPOLOGY[kind], *arguments,
        )  # fmt: skip

    def kill(self, kind: str, replica: int) -> None:
        """Have a replica end in the middle of what it does."""
        service = self.services.pop((kind, replica))
        os.kill(service.pid, signal.SIGKILL)
        service.stop()

    def issuance_log(self, replica: int) -> Path:
        """Where a replica of the steward writes down what it decides."""
        return self.directory / f"issuance-{replica}.log"

    def issued(self, replica: int) -> list[dict[str, Any]]:
        """The certificates that a replica of the steward issued, by a log whose chain is whole."""
        log = self.issuance_log(replica)
        self.command(self.replicas[replica], "steward", "log", "verify", str(log))
        lines = map(json.loads, log.read_text().splitlines())
        return [line for line in lines if line["outcome"] == "issued"]

    def login(self, machine: Machine, name: str, netloc: str, directory: Path) -> None:
        self.command(
            machine, "user", "login", "--ca-bundle", str(directory / "tls/ca.pem"),
            "--oidc-client-id", name, "--oidc-domain", f"https://{netloc}/insecure-oidc/",
            "--oidc-secret-file", str(directory / "insecure-oidc-secret"), netloc,
        )  # fmt: skip

    def login_at_drawbridge(self) -> None:
        self.login(self.tenant, "jane", self.registry, self.directory / "drawbridge")

    # Keeps.

    def slug(self, name: str) -> str:
        return f"{self.registry}/jane/{name}"

    def publish_all(self) -> None:
        registry = ("--ca-bundle", str(self.directory / "drawbridge/tls/ca.pem"))
        self.command(self.tenant, "user", "register", *registry, f"{self.registry}/jane")
        sources = {
            "echo": _EXAMPLES / "languages/c/server.c",
            "steady": _EXAMPLES / "network/steady.c",
        }
        wasm = {name: self._built(name, source) for name, source in sources.items()}
        for port in (*_TOPOLOGY["servers"], "none"):
            name = "rogue" if port == "none" else f"echo{port}"
            self.command(self.tenant, "repo", "register", *registry, self.slug(name))
        self.command(self.tenant, "repo", "register", *registry, self.slug("steady"))
        peers = f'peers = ["{self.slug("steady")}:^1.0"]'
        for version, ports in (
            ("0.1.0", _TOPOLOGY["servers"]),
            ("0.2.0", _TOPOLOGY["upgraded"]),
        ):
            for base, port in zip(_TOPOLOGY["servers"], ports, strict=True):
                config = "".join(
                    f'[[files]]\nkind = "{kind}"\n' for kind in ("null", "stdout", "stderr")
                )
                config += (
                    f'[[files]]\nkind = "listen"\nname = "L"\naddr = "::"\nport = {port}\n{peers}\n'
                )
                self._publish(wasm["echo"], config, f"echo{base}:{version}", registry)
        targets = [
            f"{host}:{port}"
            for ports in (_TOPOLOGY["servers"], _TOPOLOGY["upgraded"])
            for host in _TOPOLOGY["hosts"]
            for port in ports
        ]
        admitted = ", ".join(
            f'"{self.slug(f"echo{port}")}:>=0.1.0, <0.3.0"' for port in _TOPOLOGY["servers"]
        )
        rules = f"{_STREAMS}[network.outgoing.default]\npeers = [{admitted}]\n"
        for number in range(_TOPOLOGY["clients"]):
            turned = json.dumps(targets[number:] + targets[:number])
            config = f"args = {turned}\n{rules}"
            self._publish(wasm["steady"], config, f"steady:1.{number}.0", registry)
        self._publish(
            wasm["steady"], f"args = {json.dumps(targets)}\n{rules}", "rogue:1.0.0", registry
        )

    def _built(self, name: str, source: Path) -> Path:
        out = self.directory / f"{name}.wasm"
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s"]
        environment = {"ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache"), **os.environ}
        subprocess.run([*compiler, str(source), "-o", str(out)], check=True, env=environment)
        return out

    def _publish(self, wasm: Path, config: str, name: str, registry: tuple[str, ...]) -> None:
        package = self.directory / "packages" / name.replace(":", "-")
        package.mkdir(parents=True)
        (package / "main.wasm").write_bytes(wasm.read_bytes())
        (package / "Enarx.toml").write_text(config)
        self.command(self.tenant, "package", "publish", *registry, str(package), self.slug(name))

    def host_options(self, machine: Machine) -> tuple[str, ...]:
        ca = self.directory / f"host-{machine.address}/tls/ca.pem"
        return ("--host", f"https://{machine.address}:{_HOST_PORT}", "--host-ca", str(ca))

    def start_agents(self) -> None:
        for machine in self.hosts:
            directory = self.directory / f"host-{machine.address}"
            self.start(
                machine, f"agent {machine.address}", "host", "serve", "--dir", str(directory),
                "--insecure-dev", "--host", machine.address, "--port", str(_HOST_PORT),
                "--tenant", "jane", "--max-keeps", "40",
            )  # fmt: skip
            self.login(self.tenant, "jane", f"{machine.address}:{_HOST_PORT}", directory)

    def deploy(self, machine: Machine, name: str) -> str:
        """Deploy to a host; the keep's id."""
        arguments = [
            "deploy", *self.host_options(machine), "--json",
            "--steward", f"https://{_TOPOLOGY['steward']}:{_STEWARD_PORT}",
            "--steward-root", str(self.directory / "steward/root.pem"),
            "--ca-bundle", str(self.directory / "drawbridge/tls/ca.pem"),
            "--insecure-simulate", f"snp={self.directory / 'sim'}", self.slug(name),
        ]  # fmt: skip
        told = self.command(self.tenant, *arguments).strip()
        keep = json.loads(told)["keep"] if told.startswith("{") else told
        self.keeps[keep] = machine
        return str(keep)

    def deploy_all(self, wanted: list[tuple[Machine, str]]) -> list[str]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda item: self.deploy(*item), wanted))

    def log(self, keep: str) -> list[str]:
        options = self.host_options(self.keeps[keep])
        return self.command(self.tenant, "host", "logs", *options, keep).splitlines()

    def count(self, keep: str, text: str) -> int:
        """How often a keep has said `text`."""
        return sum(text in line for line in self.log(keep))

    def wait(self, keeps: list[str], text: str, seconds: float = 180) -> None:
        """Until each of `keeps` has said `text`."""
        deadline = time.monotonic() + seconds
        waiting = list(keeps)
        while waiting:
            waiting = [k for k in waiting if not any(text in line for line in self.log(k))]
            assert time.monotonic() < deadline, (text, self.log(waiting[0])[-5:])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        try:
            fabric = stack.enter_context(Fabric())
        except CannotError as error:
            pytest.skip(f"no network namespaces here: {error}")
        world = World(fabric, tmp_path)
        # In the opposite order, each whatever became of the others: keeps, services, machines.
        stack.callback(world.stop)
        for machine in world.hosts:
            directory = tmp_path / f"host-{machine.address}"
            stack.callback(world.run, machine, "host", "drain", str(directory))
        world.prepare()
        yield world


def ends(world: World, clients: list[str]) -> int:
    """How many conversations ended so far."""
    return sum(line.startswith("ended:") for keep in clients for line in world.log(keep))


def test_thirty_keeps_on_three_hosts(world: World) -> None:
    figures: dict[str, object] = {}
    for kind in ("drawbridge", "steward"):
        for replica in range(len(world.replicas)):
            world.serve(kind, replica)
    world.login_at_drawbridge()
    world.publish_all()
    world.start_agents()

    began = time.monotonic()
    servers = world.deploy_all(
        [(host, f"echo{port}:0.1.0") for host in world.hosts for port in _TOPOLOGY["servers"]]
    )
    clients = world.deploy_all(
        [(host, f"steady:1.{n}.0") for host in world.hosts for n in range(_TOPOLOGY["clients"])]
    )
    assert len(world.keeps) == 30
    world.wait(clients, "talking to")
    figures["thirty keeps up, s"] = round(time.monotonic() - began, 1)

    # Somebody whom no server admits, all the time.
    rogue = world.deploy(world.hosts[0], "rogue:1.0.0")

    # A host is cut off for three seconds: what was said is said later, and nothing ends.
    before = ends(world, clients)
    world.hosts[1].cut(off=True)
    time.sleep(3)
    world.hosts[1].cut(off=False)
    time.sleep(3)
    assert ends(world, clients) == before == 0

    # From here on until the upgrade a host has a bad line.
    figures["a bad line, by"] = world.hosts[2].impair()
    began = time.monotonic()
    behind = [keep for keep, machine in world.keeps.items() if machine is world.hosts[2]]
    renewals = {keep: world.count(keep, _RENEWED) for keep in behind}

    # Each service loses the replica that most have spoken with. Both were at work until now.
    figures["certificates of the replicas, before one was killed"] = [
        len(world.issued(replica)) for replica in range(len(world.replicas))
    ]
    assert all(world.issued(replica) for replica in range(len(world.replicas)))
    for kind in ("steward", "drawbridge"):
        world.kill(kind, 0)
    killed = len(world.issued(0))
    world.login_at_drawbridge()
    time.sleep(3 * _POLL_SECONDS)
    assert ends(world, clients) == 0
    extra = world.deploy(world.hosts[2], "steady:1.0.0")
    world.wait([extra], "talking to")
    assert len(world.issued(0)) == killed

    # The steward's root is rolled over, in the middle of it all.
    directory = str(world.directory / "steward")
    for step in ("prepare", "activate"):
        world.command(world.replicas[1], "steward", "rollover", step, directory)
        service = world.services["steward", 1]
        os.kill(service.pid, signal.SIGHUP)
        service.expect('"outcome": "reloaded"')
        if step == "prepare":
            turned = time.monotonic()
            # Drawbridges are told; keeps ask.
            os.kill(world.services["drawbridge", 1].pid, signal.SIGHUP)
            for keeps, where in ((clients, "all clients"), (behind, "all on the bad line")):
                world.wait(keeps, "has other roots now")
                figures[f"new roots at {where}, s"] = round(time.monotonic() - turned, 1)
    assert ends(world, clients) == 0
    # A keep under the new root talks with those under the old one.
    newest = world.deploy(world.hosts[1], "steady:1.1.0")
    world.wait([newest], "talking to")

    # The killed ones come back, and go on where they were.
    for kind in ("drawbridge", "steward"):
        world.serve(kind, 0)

    # All on the bad line have renewed their certificates over it, and lost nothing.
    deadline = time.monotonic() + 60 * _LIFETIME_MINUTES
    while late := [keep for keep in behind if world.count(keep, _RENEWED) <= renewals[keep]]:
        assert time.monotonic() < deadline, world.log(late[0])[-5:]
        time.sleep(_POLL_SECONDS)
    assert ends(world, clients) == 0
    figures["on the bad line, s"] = round(time.monotonic() - began, 1)
    figures["frames on the bad line"] = world.hosts[2].heal()

    # A rolling upgrade: the new servers beside the old ones, which then go one by one.
    began = time.monotonic()
    new_servers = world.deploy_all(
        [(host, f"echo{port}:0.2.0") for host in world.hosts for port in _TOPOLOGY["servers"]]
    )
    for keep in servers:
        world.command(world.tenant, "host", "stop", *world.host_options(world.keeps[keep]), keep)
    world.wait([*clients, extra, newest], ":0.2.0")
    figures["rolling upgrade, s"] = round(time.monotonic() - began, 1)

    # Every certificate is in one log, and none is for anybody else. Who came back issued more.
    by_replica = [world.issued(replica) for replica in range(len(world.replicas))]
    figures["certificates of the replicas"] = [len(found) for found in by_replica]
    assert len(by_replica[0]) > killed
    serials = [line["serial"] for found in by_replica for line in found]
    assert len(set(serials)) == len(serials)
    slugs = {line["slug"] for found in by_replica for line in found}
    assert all(slug is None or slug.startswith(world.slug("")) for slug in slugs)

    # Nobody was let in who should not have been: no server ever met the rogue.
    for keep in (*servers, *new_servers):
        met = [line for line in world.log(keep) if line.startswith("peer ")]
        assert all(f"{world.slug('steady')}:1." in line for line in met)
    refused = [line for keep in servers for line in world.log(keep) if "rogue:1.0.0" in line]
    assert refused
    assert all("refused a peer" in line for line in refused)
    # And every client is still the same process.
    for keep in clients:
        shown = json.loads(
            world.command(
                world.tenant, "host", "inspect", *world.host_options(world.keeps[keep]), keep
            )
        )
        assert (shown["phase"], shown["restarts"]) == ("running", 0)
    assert rogue in world.keeps
    print(json.dumps(figures))
