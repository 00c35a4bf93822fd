"""An enclave from the host's side: nitro-cli is played, the keep and its channels are true.

Vsock's part is played by sockets in a folder, which connect and listen as it does.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.unit.guest.test_guest_serve import _CAT, HOST_STDIO

from garrison.errors import Malformed, Unavailable
from garrison.formats.channel import CONTROL
from garrison.formats.eif import Eif
from garrison.formats.guest_request import GuestRequest, Local
from garrison.formats.vsock import CARD_PORT, PORTS
from garrison.image.enclave import COMMAND_LINE
from garrison.image.folder import Image
from garrison.keep.engine.library import wat2wasm
from garrison.launch import network_card
from garrison.launch.monitor import Publication
from garrison.launch.nitro import EnclaveOptions, Tools, _enclave, _Published, run_cli, run_enclave

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The enclave: the true guest, on sockets in the folder that it is given.
_ENCLAVE = """
import socket, sys
from garrison.guest import enclave
from garrison.guest.serve import serve
def listen(port):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{sys.argv[1]}/{port}")
    listener.listen(1)
    return listener
found = enclave.accept_all(listen)
card = found.pop("garrison.network-card")
for each in found.values():
    each.setblocking(False)
ports = {name: each.detach() for name, each in found.items()}
sys.exit(serve(ports, lambda request: None, lambda: None))
"""
NAME = "i-0123456789abcdef0-enc0123456789abcdef"


class Instance:
    """A parent instance: its nitro-cli, and the way to its one enclave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[list[str]] = []
        self.eif: Eif | None = None
        self.carded: list[tuple[Publication, ...]] = []
        self.enclave: subprocess.Popen[bytes] | None = None
        self.program = _ENCLAVE

    def cli(self, arguments: Sequence[str]) -> bytes:
        self.asked.append(list(arguments))
        if arguments[0] == "terminate-enclave":
            assert self.enclave is not None
            self.enclave.kill()
            self.enclave.wait()
            return b"{}"
        options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
        self.eif = Eif.from_bytes(Path(options["--eif-path"]).read_bytes())
        self.enclave = subprocess.Popen(
            [sys.executable, "-c", self.program, str(self.folder)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        told = {"EnclaveID": NAME, "EnclaveCID": 16, "MemoryMiB": int(options["--memory"])}
        return b"Start allocating memory...\n" + json.dumps(told).encode()

    def connect(self, cid: int, port: int) -> socket.socket:
        assert cid == 16
        stream = socket.socket(socket.AF_UNIX)
        try:
            # As that of vsock, which is not kept waiting either.
            stream.settimeout(30)
            stream.connect(str(self.folder / str(port)))
        except OSError:
            stream.close()
            raise
        return stream

    @contextmanager
    def card(
        self, stream: socket.socket, published: Sequence[Publication]
    ) -> Iterator[subprocess.Popen[bytes]]:
        # passt gets the descriptor, and would leave a frame half written where it does not block.
        assert os.get_blocking(stream.fileno())
        self.carded.append(tuple(published))
        with stream, subprocess.Popen([sys.executable, "-c", ""]) as process:
            yield process

    @property
    def tools(self) -> Tools:
        return Tools(self.cli, self.connect, self.card)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    folder = tmp_path / "vsock"
    folder.mkdir()
    found = Instance(folder)
    yield found
    if found.enclave is not None:
        found.enclave.kill()
        found.enclave.wait()


@pytest.fixture
def image(tmp_path: Path) -> Image:
    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    (tmp_path / "initrd").write_bytes(b"initrd")
    return Image(tmp_path, "quiet", "sha256:0", "sha256:0", {})


def run(
    instance: Instance,
    options: EnclaveOptions,
    stdin: bytes = b"",
    files: dict[str, bytes] | None = None,
) -> tuple[int, bytes]:
    """Run, and give the exit code and what was written to standard output."""
    given, give = os.pipe()
    took, take = os.pipe()
    os.write(give, stdin)
    os.close(give)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        code = run_enclave(
            GuestRequest(Local()),
            {"main.wasm": wat2wasm(_CAT), "Enarx.toml": HOST_STDIO} if files is None else files,
            options,
            tools=instance.tools,
            streams=(given, take, null),
        )
        os.close(take)
        with open(took, "rb", closefd=False) as pipe:
            return code, pipe.read()
    finally:
        for each in (given, took, null):
            os.close(each)


def test_a_keep_in_an_enclave(instance: Instance, image: Image) -> None:
    published = (Publication(443, 8443, "127.0.0.1"),)
    options = EnclaveOptions(image, memory=2048, published=published)
    assert run(instance, options, b"over vsock") == (7, b"over vsock")
    assert instance.carded == [published]
    started, ended = instance.asked
    assert started[0] == "run-enclave"
    assert started[3:] == ["--memory", "2048", "--cpu-count", "2"]
    assert ended == ["terminate-enclave", "--enclave-id", NAME]
    assert instance.eif is not None
    kernel, line, initrd = (section.data for section in instance.eif.sections)
    assert (kernel, line, initrd) == (b"kernel", b"quiet" + COMMAND_LINE.encode(), b"initrd")
    assert not Path(started[2]).exists()


def test_one_that_never_listens_is_terminated(instance: Instance, image: Image) -> None:
    instance.program = "import time; time.sleep(600)"
    with pytest.raises(Unavailable, match=r"channel garrison\.control: did not listen in 1 s"):
        run(instance, EnclaveOptions(image, boot_seconds=1))
    assert instance.asked[-1][0] == "terminate-enclave"


def test_one_that_sends_garbage_is_terminated(instance: Instance, image: Image) -> None:
    instance.program = _ENCLAVE.partition("for each")[0] + (
        'found["garrison.control"].sendall(b"garbage!"); import time; time.sleep(600)'
    )
    with pytest.raises(Malformed, match=r"channel garrison\.control: not a frame"):
        run(instance, EnclaveOptions(image))
    assert instance.asked[-1][0] == "terminate-enclave"


def test_one_that_ends_says_so(instance: Instance, image: Image) -> None:
    instance.program = _ENCLAVE.partition("for each")[0]
    with pytest.raises(Unavailable, match="enclave: ended without an exit code"):
        run(instance, EnclaveOptions(image))


@pytest.mark.parametrize("program", ["import time; time.sleep(600)", _ENCLAVE])
def test_a_signal_ends_it(instance: Instance, image: Image, program: str) -> None:
    """Before it listens, and while it runs; nothing is left either way."""
    instance.program = program

    def interrupt() -> None:
        while not instance.asked or (program is _ENCLAVE and not instance.carded):
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    given, give = os.pipe()
    try:
        code = run_enclave(
            GuestRequest(Local()),
            {"main.wasm": wat2wasm(_CAT), "Enarx.toml": HOST_STDIO},
            EnclaveOptions(image),
            tools=instance.tools,
            streams=(given, 1, 2),
        )
    finally:
        os.close(given)
        os.close(give)
    thread.join()
    assert code == 128 + signal.SIGTERM
    assert instance.asked[-1][0] == "terminate-enclave"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{",
        b"[]",
        b'{"EnclaveID": "x"}',
        b'{"EnclaveID": "x", "EnclaveCID": 3}',
        b'{"EnclaveID": 1, "EnclaveCID": 16}',
        b"[" * 100_000,
        b"\xff\x1b[31m",
    ],
)
def test_what_is_no_answer_of_nitro_cli(said: bytes) -> None:
    with pytest.raises(Malformed, match="run-enclave: does not tell of an enclave") as caught:
        _enclave(said)
    assert "\x1b" not in str(caught.value)


def test_a_nitro_cli_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="nitro-cli: cannot be run"):
        run_cli(["run-enclave"])
    program = tmp_path / "nitro-cli"
    program.write_text("#!/bin/sh\necho 'E51 no memory' >&2\nexit 51\n")
    program.chmod(0o755)
    with pytest.raises(Unavailable, match="run-enclave failed; found E51 no memory"):
        run_cli(["run-enclave"])


@pytest.mark.parametrize(
    ("port", "udp", "error"),
    [
        (443, False, 0),
        (80, False, errno.EADDRNOTAVAIL),
        (443, True, errno.EADDRNOTAVAIL),
        (53, True, 0),
        (53, False, errno.EADDRNOTAVAIL),
    ],
)
def test_only_what_is_published_is_reachable(port: int, udp: bool, error: int) -> None:
    told: list[int] = []
    published = (Publication(443), Publication(53, udp=True))
    _Published(published).forward(port, told.append, udp=udp)
    assert told == [error]


def test_the_command_line_of_passt() -> None:
    published = (
        Publication(443, 8443, "127.0.0.1"),
        Publication(80),
        Publication(53, 5353, "127.0.0.1", udp=True),
    )
    command = network_card.passt_command("passt", 5, published)
    assert command[command.index("--tcp-ports") + 1] == "127.0.0.1/8443:443,0.0.0.0/80:80"
    assert command[command.index("--udp-ports") + 1] == "127.0.0.1/5353:53"
    assert command[command.index("--fd") + 1] == "5"
    nothing = network_card.passt_command("passt", 5, ())
    assert nothing[nothing.index("--tcp-ports") + 1] == "none"
    assert nothing[nothing.index("--udp-ports") + 1] == "none"


def test_addresses_are_those_of_the_guest() -> None:
    from garrison.guest import machine

    mine = (network_card.HOST, network_card._ADDRESS, network_card._NETMASK)
    assert mine == (machine.HOST, machine.ADDRESS, machine.NETMASK)
    assert network_card._NAME_SERVER == machine.NAME_SERVER


def test_ports_are_few_and_fixed() -> None:
    """They are in the measured image and in every host: a change is one of the protocol."""
    assert [*PORTS.values(), CARD_PORT] == [0x6B656570 + index for index in range(5)]
    assert next(iter(PORTS)) == CONTROL
