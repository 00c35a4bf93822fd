"""One stack for all attacks of a worker: services, published workloads, and the host's means."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garrison.formats.tree import Package
from garrison.testing.attacks import Host
from garrison.testing.drawbridge import LyingServer
from garrison.testing.snp import FakePlatform
from garrison.testing.stack import Stack, free_port
from garrison.testing.tls import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from garrison.testing.stack import Process

OTHER_MEASUREMENT = "11" * 48
_STREAMS = "".join(f'[{name}]\nkind = "host"\n' for name in ("stdout", "stderr"))


@dataclass(frozen=True, slots=True)
class Attack(Host):
    """A host, and what stands ready for its attacks.

    Attributes:
        wasm: the workload.
        port: where `listen:1.0.0` listens, which admits `connect:1.0.0` alone.
        second_port: where `connect:2.0.0` connects, which admits `listen:2.0.0` alone.
        open_port: where `open:1.0.0` listens, which admits everybody.
        liar: a drawbridge of the host's own, which the second steward's policy names.
        liar_ca: the CA of its TLS.
        second: a second steward with the root of the first, which believes more: it names the
            liar, a second simulated vendor, and a second measurement.
        platform: of that vendor.
        packages: what is published, by `repo:tag`.
    """

    wasm: bytes
    port: int
    second_port: int
    open_port: int
    liar: LyingServer
    liar_ca: Authority
    second: str
    platform: FakePlatform
    packages: dict[str, Package] = field(default_factory=dict)

    def package(self, *arguments: str, network: str = "") -> Package:
        """A package of the workload, with those arguments and that network."""
        listed = ", ".join(f'"{argument}"' for argument in arguments)
        config = f"args = [{listed}]\n{_STREAMS}{network}"
        return Package({"main.wasm": self.wasm, "Enarx.toml": config.encode()})

    def publish(self, name: str, package: Package) -> None:
        """Publish `package` as `repo:tag` of the user."""
        directory = self.stack.directory / "packages" / name.replace(":", "-")
        for path, content in package.files.items():
            file = directory / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        self.stack.publish(directory, name)
        self.packages[name] = package


@pytest.fixture(scope="session")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    """The hostile host, with all services up."""
    directory: Path = tmp_path_factory.mktemp("attack")
    wasm = _compiled(directory)
    ports = (free_port(), free_port(), free_port())
    liar_ca, platform = Authority("Liar"), FakePlatform()
    with (
        Stack(directory) as stack,
        LyingServer(liar_ca.issue(hosts=("localhost",))) as liar,
    ):
        stack.start_services()
        stack.login()
        policy = _wider(stack, liar, liar_ca, platform)
        second = Host(stack).start_steward(directory / "steward", policy)
        attack = Attack(stack, wasm, *ports, liar, liar_ca, second, platform)
        _publish_all(attack)
        yield attack


@pytest.fixture(scope="session")
def server(attack: Attack) -> Process:
    """A keep that listens, and admits `connect:1.0.0` alone."""
    keep = attack.start("the server", attack.request("listen:1.0.0"))
    keep.expect("listening")
    return keep


def _publish_all(attack: Attack) -> None:
    slug = attack.stack.slug
    for name in ("plain", "listen", "connect", "rogue", "open"):
        attack.stack.register_repo(name)
    attack.stack.register_repo(
        "secret", "--private", "--keep", f"measurement={attack.stack.measurement}"
    )
    plain = attack.package()
    attack.publish("plain:1.0.0", plain)
    attack.publish("plain:0.9.0", Package({**plain.files, "NEWS": b"an older version\n"}))
    attack.publish("secret:1.0.0", Package({**plain.files, "SECRET": b"the recipe\n"}))
    attack.publish("open:1.0.0", attack.package("listen", str(attack.open_port)))
    for version, port in (("1.0.0", attack.port), ("2.0.0", attack.second_port)):
        client, server = f"connect:{version}", f"listen:{version}"
        table = f'[network.incoming.{port}]\npeers = ["{slug(client)}"]\n'
        attack.publish(server, attack.package("listen", str(port), network=table))
        table = f'[network.outgoing."localhost:{port}"]\npeers = ["{slug(server)}"]\n'
        attack.publish(client, attack.package("connect", f"localhost:{port}", network=table))
    attack.publish("rogue:1.0.0", attack.packages["connect:1.0.0"])


def _compiled(directory: Path) -> bytes:
    """The workload, from `guest.c`."""
    wasm = directory / "main.wasm"
    subprocess.run(
        [
            sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s",
            "-Wall", "-Wextra", "-Werror", "-o", str(wasm), str(Path(__file__).parent / "guest.c"),
        ],
        check=True,
        env={"ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache"), **os.environ},
    )  # fmt: skip
    return wasm.read_bytes()


def _wider(stack: Stack, liar: LyingServer, liar_ca: Authority, platform: FakePlatform) -> str:
    """The policy of the second steward."""
    ca = stack.directory / "liar-ca.pem"
    ca.write_text(liar_ca.root_pem)
    vendor = stack.directory / "vendor"
    vendor.mkdir()
    chain = platform.endorsements()
    for name, data in (("ark", chain.root), ("ask", chain.issuer), ("crl", chain.crl)):
        assert data is not None
        (vendor / f"{name}.der").write_bytes(data)
    policy = stack.policy().replace(
        f'["{stack.measurement}"]', f'["{stack.measurement}", "{OTHER_MEASUREMENT}"]'
    )
    return f"""{policy}
[drawbridges."{liar.host}"]
ca = "{ca}"

[snp.insecure_simulated_roots.test]
key_sha256 = "{platform.root_key_sha256}"
endorsements = "{vendor}"
"""
