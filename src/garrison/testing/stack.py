"""A whole Garrison on one machine, through its own commands: for the demonstration and tests.

A drawbridge and a steward over TLS on free ports, a simulated TEE vendor that the steward's
policy names, and keeps. All are real processes in a directory of their own, so any number of
stacks can run side by side. However the stack ends, so do its processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GARRISON = (sys.executable, "-P", "-m", "garrison")
USER = "demo"
# What keeps may be called. Not `localhost`: the steward itself serves under that.
DNS_NAME = "keep.demo.test"

# Generous: two loaded cores, the first start compiles all of Python's modules, and machines may be
# emulated.
READY_SECONDS = 300.0
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class StackError(Exception):
    """A step of the stack failed; the text says which, and what was printed."""


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Process:
    """A started command, whose output is collected line by line."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            text=True,
            errors="replace",
            bufsize=1,
            pass_fds=pass_fds,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  (one prctl, no locks)
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  (opened above)
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._new.put(self.lines[-1])
        self._new.put(None)

    def expect(self, text: str, seconds: float = READY_SECONDS) -> str:
        """Wait for a further line that contains `text`, and return it.

        Raises:
            StackError: the process ended, or the time is over, without one.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                line = self._new.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise StackError(self._said(f"did not say {text!r} in {seconds:.0f} s")) from None
            if line is None:
                raise StackError(self._said(f"ended without saying {text!r}"))
            if text in line:
                return line

    def send(self, line: str) -> None:
        """Write a line to the process's standard input."""
        assert self._process.stdin is not None  # noqa: S101  (opened above)
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def finish(self, seconds: float = READY_SECONDS) -> int:
        """Close standard input, wait for the end, and return the exit code.

        Raises:
            StackError: the process does not end in time.
        """
        assert self._process.stdin is not None  # noqa: S101  (opened above)
        self._process.stdin.close()
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise StackError(self._said(f"did not end in {seconds:.0f} s")) from None
        self._reader.join()
        return code

    def stop(self) -> int:
        """End the process, gently at first, and return its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    # What was still to be written has no reader any more.
                    continue
        return self._process.returncode

    def _said(self, what: str) -> str:
        output = "\n".join(f"    {line}" for line in self.lines[-20:]) or "    (nothing)"
        return f"{self.name} {what}; it said:\n{output}"


@dataclass
class Stack:
    """The services, and what is needed to use them. Use it as a context manager.

    `steward_init` and `steward_serve` are further options of these commands. With an `image` keeps
    run in machines that boot it, and the policy has the measurement that is predicted for it. The
    policy names `oci_registries`, host to CA, and the keys that tags of both must be signed with.
    """

    directory: Path
    image: Path | None = None
    local_workloads: bool = False
    lifetime_minutes: int = 60
    steward_init: tuple[str, ...] = ()
    steward_serve: tuple[str, ...] = ()
    more_tees: tuple[str, ...] = ()
    oci_registries: dict[str, Path] = field(default_factory=dict)
    tag_keys: Path | None = None
    processes: list[Process] = field(default_factory=list)
    registry: str = ""
    steward_url: str = ""
    measurement: str = ""
    denied: str = ""
    steward: Process = field(init=False, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            process.stop()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every command: a home of the stack's own, nothing of the user's."""
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self.directory / "home"),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": os.environ.get("PYTHONDONTWRITEBYTECODE", ""),
        }

    @property
    def registry_ca(self) -> Path:
        """The CA of the drawbridge's TLS."""
        return self.directory / "drawbridge" / "tls" / "ca.pem"

    @property
    def steward_root(self) -> Path:
        """The root of the steward: of its certificates, and of its own TLS."""
        return self.directory / "steward" / "root.pem"

    @property
    def simulator(self) -> Path:
        """The simulated vendor's keys."""
        return self.directory / "simulator"

    def simulator_of(self, tee: str) -> Path:
        """The keys of the simulated vendor of `tee`."""
        return self.simulator if tee == "snp" else self.directory / f"simulator-{tee}"

    def run(
        self,
        *arguments: str,
        stdin: str | None = None,
        environment: Mapping[str, str] | None = None,
        seconds: float = 2 * READY_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run `garrison` with `arguments` to its end, in the stack's environment or another."""
        return subprocess.run(
            [*GARRISON, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            env=self.environment if environment is None else environment,
            timeout=seconds,
            check=False,
        )

    def command(self, *arguments: str) -> str:
        """Run `garrison` with `arguments`, and return what it printed.

        Raises:
            StackError: it failed.
        """
        done = self.run(*arguments)
        if done.returncode != 0:
            raise StackError(
                f"garrison {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}"
            )
        return done.stdout

    def start(self, name: str, *arguments: str) -> Process:
        """Start `garrison` with `arguments`; it ends with the stack at the latest."""
        process = Process(name, [*GARRISON, *arguments], self.environment)
        self.processes.append(process)
        return process

    def start_services(self) -> None:
        """Start the drawbridge and the steward, each trusting what it must, and no more.

        Raises:
            StackError: one does not come up.
        """
        (self.directory / "home").mkdir(parents=True, exist_ok=True)
        self.command("platform", "insecure-simulator", "--name", "demo", str(self.simulator))
        for tee in self.more_tees:
            self.command(
                "platform", "insecure-simulator", "--tee", tee, str(self.simulator_of(tee))
            )
        measure = () if self.image is None else (str(self.image), "--tee", "snp")
        self.measurement = self.command("image", "measure", *measure).strip()
        self.command(
            "steward", "init", str(self.directory / "steward"), "--trust-domain", "demo.test",
            *self.steward_init,
        )  # fmt: skip
        drawbridge = self.start(
            "the drawbridge", "drawbridge", "serve", "--insecure-dev", "--port", "0",
            "--store", str(self.directory / "drawbridge"),
            "--client-ca", str(self.steward_root),
        )  # fmt: skip
        url = drawbridge.expect("listening on https://").rpartition(" ")[2]
        self.registry = f"localhost:{url.rpartition(':')[2]}"
        self.start_steward()

    def start_steward(self, port: int = 0) -> None:
        """Start the steward, on `port` or a free one.

        Raises:
            StackError: it does not come up.
        """
        policy = self.directory / "policy.toml"
        policy.write_text(self.policy())
        self.steward = self.start(
            "the steward", "steward", "serve", "--port", str(port),
            "--dir", str(self.directory / "steward"),
            "--policy", str(policy),
            *self.steward_serve,
        )  # fmt: skip
        url = self.steward.expect("listening on https://").rpartition(" ")[2]
        self.steward_url = f"https://localhost:{url.rpartition(':')[2]}"

    def restart_steward(self) -> None:
        """Stop the steward, and start it again where it was."""
        self.steward.stop()
        self.start_steward(int(self.steward_url.rpartition(":")[2]))

    def deny(self, section: str) -> None:
        """Have the steward deny what the lines of `section` say, from now on.

        Raises:
            StackError: it does not take the policy.
        """
        self.denied = section
        (self.directory / "policy.toml").write_text(self.policy())
        os.kill(self.steward.pid, signal.SIGHUP)
        self.steward.expect('"outcome": "reloaded"')

    def policy(self) -> str:
        """The steward's policy: the simulated root by name, this very version of the keep."""
        spki = json.loads((self.simulator / "simulator.json").read_text())["key_sha256"]
        keys = "" if self.tag_keys is None else f'tag_keys = "{self.tag_keys}"'
        registries = "\n".join(
            f'[oci_registries."{host}"]\nca = "{ca}"\n{keys}'
            for host, ca in self.oci_registries.items()
        )
        return f"""
trust_domain = "demo.test"
freshness = "required"
local_workloads = {str(self.local_workloads).lower()}

[certificates]
lifetime_minutes = {self.lifetime_minutes}
dns_names = ["{DNS_NAME}"]

[drawbridges."{self.registry}"]
ca = "{self.registry_ca}"
{keys}

{registries}

[snp]
measurements = ["{self.measurement}"]
products = ["Milan"]
minimum_tcb = "any"
id_key_digests = "any"
author_key_digests = "any"
host_data = "any"
chip_ids = "any"
endorsements = []

[deny]
{self.denied}

[snp.insecure_simulated_roots.demo]
key_sha256 = "{spki}"
endorsements = "{self.simulator}"
{"".join(map(self.policy_of, self.more_tees))}
"""

    def policy_of(self, tee: str) -> str:
        """The section for the simulator of `tee`, as a person would paste it."""
        return self.command(
            "image", "measure", "--insecure-simulate", f"{tee}={self.simulator_of(tee)}", "--policy"
        )

    def login(self) -> None:
        """Log in at the development issuer, and register the user.

        Raises:
            StackError: it is refused.
        """
        self.command(
            "user", "login", *self.registry_options, "--oidc-client-id", USER,
            "--oidc-domain", f"https://{self.registry}/insecure-oidc/",
            "--oidc-secret-file", str(self.directory / "drawbridge" / "insecure-oidc-secret"),
            self.registry,
        )  # fmt: skip
        self.command("user", "register", *self.registry_options, f"{self.registry}/{USER}")

    @property
    def registry_options(self) -> tuple[str, str]:
        """The options that every command needs to reach the drawbridge."""
        return ("--ca-bundle", str(self.registry_ca))

    def slug(self, name: str) -> str:
        """The slug of `repo:tag` in this stack's drawbridge."""
        return f"{self.registry}/{USER}/{name}"

    def publish(self, package: Path, name: str) -> dict[str, Any]:
        """Publish the directory `package` as `repo:tag`, and return what the command tells.

        Raises:
            StackError: it is refused.
        """
        text = self.command(
            "package", "publish", "--json", *self.registry_options, str(package), self.slug(name)
        )
        told: dict[str, Any] = json.loads(text)
        return told

    def register_repo(self, name: str, *options: str) -> None:
        """Register the repository `name`.

        Raises:
            StackError: it is refused.
        """
        self.command(
            "repo", "register", *self.registry_options, *options, f"{self.registry}/{USER}/{name}"
        )

    def deploy_arguments(
        self,
        name: str,
        *,
        simulate: bool = True,
        tee: str = "snp",
        image: Path | None = None,
    ) -> list[str]:
        """The command line that deploys `repo:tag`, with simulated evidence of `tee`.

        `image` is another than the stack's.
        """
        image = image or self.image
        machine = () if image is None else ("--image", str(image))
        return [
            "deploy", "--backend", "kvm" if machine else "nil", *machine,
            "--steward", self.steward_url,
            "--steward-root", str(self.steward_root),
            *self.registry_options,
            *(("--insecure-simulate", f"{tee}={self.simulator_of(tee)}") if simulate else ()),
            self.slug(name),
        ]  # fmt: skip

    def deploy(self, name: str, label: str, tee: str = "snp") -> Process:
        """Start a keep for `repo:tag`, with simulated evidence of `tee`."""
        return self.start(label, *self.deploy_arguments(name, tee=tee))


def wait_until_listening(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a program accepts connections at `port` of 127.0.0.1.

    Args:
        name: of the program, for errors.
        process: the program.
        port: where it is to listen; reserved for it.
        log: the file in which it says what is wrong.

    Raises:
        StackError: it ends, or does not listen in time.
    """
    end = time.monotonic() + READY_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                said = log.read_text(errors="replace")
                raise StackError(f"{name} does not listen; it said:\n{said}") from None
            time.sleep(0.05)
        else:
            return


def reserve_port() -> socket.socket:
    """A socket whose port of 127.0.0.1 nobody is given while it is open.

    A server that binds with SO_REUSEADDR, as almost all do, can listen there all the same, and
    again after its end: nothing listens at this socket (socket(7)).
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


def free_port() -> int:
    """A TCP port on which nobody listens.

    It is below those that Linux gives out of itself (net.ipv4.ip_local_port_range, from 32768 on):
    what the kernel once gave, it may give to any other connection until it is listened at.
    """
    for _ in range(100):
        port = 16384 + secrets.randbelow(16384)
        with socket.socket(socket.AF_INET6) as probe, contextlib.suppress(OSError):
            probe.bind(("::", port))
            return port
    raise StackError("no TCP port is free")
