"""Keeps as a network: handshakes, policy, renewal, and the way from `deploy` to the first byte.

Handshakes are full ones with a client certificate, whose holder is judged; the peer is nginx with
the same certificates and keys (P-384), on one core, the load on the other. A keep resumes no
session (docs/adr/0003-tls-library.md); what nginx gains by that, which does not judge the client
again then, stands beside it. What must be waited for in a deployment is told phase by phase, in a
process (`nil`) and in a machine (`kvm`; `bench/machine.py` has the phases of its start); cold is
with Garrison's own files and the image out of memory, as far as the services do not use them.

    python bench/network.py [SECONDS]
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import peers

import garrison
from garrison.formats.enarx_toml import Rule
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.peer_rule import PeerRule
from garrison.image.build import Recipe, default_folder
from garrison.image.build import build as build_image
from garrison.keep.identity import Certified, Credentials
from garrison.keep.net.policy import Policy
from garrison.launch.qemu_command import QEMU
from garrison.testing.attacks import Host
from garrison.testing.configs import server_config
from garrison.testing.stack import Stack, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

GOAL = 0.5
_RUNS = 3
_RULES = 1000
_ROUNDS = 200
_RENEWALS = 20
_PATIENCE = 60.0
# Of each, warm and cold: a machine that is emulated takes ten seconds and more.
_MACHINE_RUNS = 1
# What a keep logs as each phase ends.
_PHASES = {
    "keep certified": "certified as spiffe://demo.test/keep",
    "workload fetched, every byte checked": "every byte checked",
    "workload certified": "certified as",
}


def credentials(made: Stack) -> Credentials:
    """A simulated keep's."""
    host = Host(made)
    return Credentials.generate(host.simulator(), host.steward())


def written(certified: Certified, folder: Path, name: str) -> tuple[str, str]:
    """A chain and its key, as files for other programs: it is simulated, nothing is given away."""
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(certified.chain_pem())
    key.write_bytes(certified.key_pem())
    return str(chain), str(key)


@contextlib.contextmanager
def nginx(folder: Path, identity: tuple[str, str], root: Path) -> Iterator[tuple[int, int]]:
    """nginx that demands a client certificate under `root`: its ports, the second resumes."""
    port, resuming = free_port(), free_port()
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    if not module.exists():
        raise peers.MissingPeerError("nginx has no stream module (Debian: libnginx-mod-stream)")
    config = folder / "mutual.conf"
    servers = "".join(
        f"server {{ listen 127.0.0.1:{at} ssl; return x; ssl_session_tickets {tickets}; }}\n"
        for at, tickets in ((port, "off"), (resuming, "on"))
    )
    config.write_text(
        f"load_module {module};\nworker_processes 1;\ndaemon off;\npid {folder}/mutual.pid;\n"
        f"error_log {folder}/mutual.log;\nevents {{ worker_connections 1024; }}\n"
        f"stream {{ ssl_certificate {identity[0]}; ssl_certificate_key {identity[1]};\n"
        f"ssl_verify_client on; ssl_client_certificate {root}; ssl_verify_depth 3;\n"
        "ssl_protocols TLSv1.3; ssl_session_cache off; ssl_ecdh_curve X25519; tcp_nodelay on;\n"
        f"{servers} }}\n"
    )
    command = [peers.installed("nginx"), "-c", str(config), "-p", str(folder)]
    with peers.running(command, port):
        yield port, resuming


def handshakes(folder: Path, made: Stack, seconds: str) -> bool:
    """Print the rates; whether the goal is met."""
    local = WorkloadIdentity(slug=None, digest=bytes(range(32)))
    client = written(credentials(made).certify(local), folder, "client")
    server = written(credentials(made).certify(local), folder, "server")
    load = str(peers.native("handshakes", folder))
    guest = peers.compiled(peers.PROGRAMS / "echo.c", folder)
    port = free_port()
    config = folder / "keep.toml"
    config.write_text(server_config(port))
    keep = [*peers.keep_command(made, guest, port, folder)]
    keep[keep.index("--wasmcfgfile") + 1] = str(config)
    found: dict[str, list[float]] = {"a keep": [], "nginx": [], "nginx, resumed": []}
    with peers.running(keep, port), nginx(folder, server, made.steward_root) as other:
        for run in range(_RUNS):
            for (name, rates), at in zip(found.items(), (port, *other), strict=True):
                command = [load, str(at), seconds, *client]
                if name.endswith("resumed"):
                    if run > 0:
                        # No goal hangs on it.
                        continue
                    command.append("resume")
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rates.append(float(done.stdout))
    ours, theirs, resumed = (statistics.median(rates) for rates in found.values())
    print("| new mutual TLS connections | a keep | nginx | ratio | goal |\n|---|---|---|---|---|")
    print(
        f"| full handshakes per second | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} | {GOAL} |"
    )
    print(f"| nginx, each session resumed | | {resumed:.0f} | {ours / resumed:.2f} | |")
    return ours / theirs >= GOAL


def decisions(made: Stack) -> None:
    """Print what one decision costs, where the last of many rules admits."""
    own = credentials(made).certify(WorkloadIdentity(slug=None, digest=bytes(range(32))))
    rules = [PeerRule.parse(f"drawbridge.test/jane/app{n}:^1.0") for n in range(_RULES - 1)]
    last = replace(PeerRule.parse("any"), digest=bytes(range(32)))
    print("\n| rules | one decision, µs | of which the certificate |\n|---|---|---|")
    times = []
    for listed in ((last,), (*rules, last)):
        policy = Policy("bench", Rule(peers=listed), incoming=True)
        start = time.perf_counter()
        for _ in range(_ROUNDS):
            policy.admit(own.leaf)
        times.append((time.perf_counter() - start) / _ROUNDS * 1e6)
    for count, spent in zip((1, _RULES), times, strict=True):
        print(f"| {count} | {spent:.0f} | {times[0]:.0f} |")


def renewals(made: Stack) -> None:
    """Print what a renewal costs the keep, and how long it takes."""
    own = credentials(made)
    workload = WorkloadIdentity(slug=None, digest=bytes(range(32)))
    own.certify(workload)
    wall, cpu = [], []
    for _ in range(_RENEWALS):
        start, used = time.perf_counter(), time.process_time()
        own.certify(workload)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    print("\n| a renewal, by fresh evidence | ms |\n|---|---|")
    for what, times in ((f"to the certificate, of {_RENEWALS}", wall), ("the keep's CPU", cpu)):
        print(f"| {what}, median | {statistics.median(times) * 1e3:.1f} |")


def deployments(folder: Path, made: Stack) -> None:
    """Print the phases of a deployment, in a process and in a machine."""
    guest = peers.compiled(peers.PROGRAMS / "echo.c", folder)
    port = free_port()
    package = folder / "package"
    package.mkdir()
    (package / "main.wasm").write_bytes(guest.read_bytes())
    # A machine is reached at its network card.
    (package / "Enarx.toml").write_text(server_config(port, addr="::", more=""))
    made.login()
    made.register_repo("bench")
    made.publish(package, "bench:1.0.0")
    deployment(made, "nil", port, _RUNS)
    if shutil.which(QEMU) is None:
        print(f"\nNo rows of `kvm`: {QEMU} is not installed.")
        return
    recipe = Recipe.of_this_release()
    made.image = build_image(recipe, default_folder(recipe), say=lambda _: None).folder
    # The steward is to admit what is predicted for that image.
    made.measurement = made.command("image", "measure", str(made.image), "--tee", "snp").strip()
    made.deny("")
    deployment(made, "kvm", port, _MACHINE_RUNS)


def deployment(made: Stack, backend: str, port: int, runs: int) -> None:
    """Print the phases of a deployment: the medians of so many runs, cold and warm."""
    measured = {}
    for state in ("cold", "warm"):
        marks = []
        for _ in range(runs):
            if state == "cold":
                forget_files(made.image)
            marks.append(deployed(made, port))
        measured[state] = [statistics.median(times) * 1e3 for times in zip(*marks, strict=True)]
    print(f"\n| from `deploy` on `{backend}`, ms | warm | more | cold | more |")
    print("|---|---|---|---|---|")
    before = (0.0, 0.0)
    for phase, *at in zip(
        (*_PHASES, "first byte served"), measured["warm"], measured["cold"], strict=True
    ):
        told = " | ".join(f"{t:.0f} | {t - b:.0f}" for t, b in zip(at, before, strict=True))
        print(f"| {phase} | {told} |")
        before = (at[0], at[1])


def deployed(made: Stack, port: int) -> list[float]:
    """Deploy once; the seconds until each phase was over, and until the first byte."""
    start = time.perf_counter()
    keep = made.deploy("bench:1.0.0", "the keep")
    marks = []
    for text in _PHASES.values():
        keep.expect(text)
        marks.append(time.perf_counter() - start)
    first_byte(made, port)
    marks.append(time.perf_counter() - start)
    keep.stop()
    return marks


def first_byte(made: Stack, port: int) -> None:
    """Wait until the keep answers."""
    context = ssl.create_default_context(cafile=str(made.steward_root))
    context.check_hostname = False
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with (
                socket.create_connection(("localhost", port), timeout=_PATIENCE) as plain,
                context.wrap_socket(plain) as connection,
            ):
                connection.sendall(b"x")
                if connection.recv(1) == b"x":
                    return
        except (ConnectionError, ssl.SSLEOFError):
            # It does not listen yet; what stands before a machine may take the connection.
            time.sleep(0.005)
        if time.monotonic() > deadline:
            raise TimeoutError("the keep does not serve")


def forget_files(image: Path | None) -> None:
    """Have the kernel drop what it holds of Garrison's files, of what it uses, and of an image."""
    folders = {Path(sysconfig.get_path("purelib")), Path(garrison.__file__).parent}
    for folder in folders | ({image} if image else set()):
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> int:
    """Measure, print tables, and return 1 if the goal is missed."""
    seconds = sys.argv[1] if len(sys.argv) > 1 else "1"
    with tempfile.TemporaryDirectory() as name, peers.stack(Path(name)) as made:
        good = handshakes(Path(name), made, seconds)
        decisions(made)
        renewals(made)
        deployments(Path(name), made)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
