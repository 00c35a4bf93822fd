"""The `nitro` backend: a keep in an AWS Nitro enclave, supervised from its parent instance.

The image becomes an enclave image file, `nitro-cli` starts it, and this process connects to the
ports where it listens (`garrison.formats.vsock`): the channels are those of any machine, and the
network card's stream is handed to passt. An enclave of ours ends with us, however we end it: it
also ends by itself when the channels are closed.

It was never run on Nitro: see docs/limitations.md.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from garrison.errors import Malformed, Unavailable
from garrison.formats.guest_request import GuestRequest
from garrison.formats.vsock import CARD, CARD_PORT, PORTS
from garrison.image.enclave import enclave_image
from garrison.launch.host_checks import inspect_host, require
from garrison.launch.network_card import HOST, network_card
from garrison.launch.session import Session, signals
from garrison.relay import carry
from garrison.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from garrison.formats.guest_request import Local
    from garrison.formats.launch_request import LaunchRequest
    from garrison.image.folder import Image
    from garrison.launch.monitor import Publication
    from garrison.launch.session import Asked

log = logging.getLogger("garrison.launch")

NITRO_CLI = "nitro-cli"
# The file system and the keep are in memory, and AWS wants four times the image at least.
DEFAULT_MEMORY = 1024
# A parent instance lends whole cores, of two processors each.
CPUS = 2
# From nitro-cli's return to the keep's listening: a second or two, and memory to clear.
BOOT_SECONDS = 120.0
_TRY_SECONDS = 0.2
_CLI_SECONDS = 120.0
_MAX_REASON = 500


def run_cli(arguments: Sequence[str]) -> bytes:
    """Run `nitro-cli`, and return what it printed.

    Raises:
        Unavailable: it cannot, or fails.
    """
    try:
        done = subprocess.run(
            [NITRO_CLI, *arguments],
            check=False,
            capture_output=True,
            timeout=_CLI_SECONDS,
            stdin=subprocess.DEVNULL,
            # A terminal's Ctrl-C must not leave an enclave that nobody knows of.
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"cannot be run: {error}", field=NITRO_CLI) from error
    if done.returncode:
        said = plain(done.stderr.decode(errors="replace").strip()[-_MAX_REASON:])
        raise Unavailable(f"{arguments[0]} failed", field=NITRO_CLI, found=said or "no reason")
    return done.stdout


def connect_vsock(cid: int, port: int) -> socket.socket:
    """Connect to a port of an enclave.

    Raises:
        OSError: it does not listen yet, or not any more.
    """
    stream = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        stream.settimeout(_TRY_SECONDS)
        stream.connect((cid, port))
    except OSError:
        stream.close()
        raise
    return stream


@dataclass(frozen=True, slots=True)
class Tools:
    """What an enclave is started with and reached by; other than these in tests alone."""

    cli: Callable[[Sequence[str]], bytes] = run_cli
    connect: Callable[[int, int], socket.socket] = connect_vsock
    card: Callable[
        [socket.socket, Sequence[Publication]], AbstractContextManager[subprocess.Popen[bytes]]
    ] = network_card


@dataclass(frozen=True, slots=True)
class EnclaveOptions:
    """What a person says of the enclave.

    Attributes:
        image: what it boots.
        memory: in MiB.
        cpus: how many processors.
        published: where this host has the ports that the workload listens on; no others.
        boot_seconds: how long it may take until it listens.
    """

    image: Image
    memory: int = DEFAULT_MEMORY
    cpus: int = CPUS
    published: tuple[Publication, ...] = ()
    boot_seconds: float = BOOT_SECONDS


def run_nitro(
    what: LaunchRequest | Local,
    options: EnclaveOptions,
    files: Mapping[str, bytes] | None = None,
    *,
    log_level: str = "info",
) -> int:
    """Run a keep in an enclave, and return its exit code.

    Args:
        what: a published workload, or a local one, whose `files` are given.
        options: of the enclave.
        files: of a local workload.
        log_level: how much the keep logs.

    Raises:
        Unavailable: this host cannot run enclaves; or it does not start, or ended without an exit
            code.
        Misuse: there is no passt.
        Malformed: the enclave sent what is not a frame.
        OSError: a part of the image cannot be read.
    """
    require("nitro", inspect_host())
    # The guest's loopback has nobody on it; the host's has whoever is tried out there.
    request = GuestRequest(what, {"localhost": HOST}, log_level)
    return run_enclave(request, files or {}, options)


def run_enclave(
    request: GuestRequest,
    files: Mapping[str, bytes],
    options: EnclaveOptions,
    *,
    tools: Tools | None = None,
    streams: tuple[int, int, int] = (0, 1, 2),
) -> int:
    """The same, without looking at the host; `tools` and `streams` are others in tests."""
    tools = tools or Tools()
    with ExitStack() as stack:
        asked = stack.enter_context(signals())
        session = Session("enclave", asked, _Published(options.published), options.boot_seconds)
        cid = stack.enter_context(_started(options, tools))
        connections = _connected(lambda port: tools.connect(cid, port), asked, options.boot_seconds)
        if connections is None:
            return 128 + asked.numbers[0]
        for each in connections.values():
            stack.callback(each.close)
        card = connections.pop(CARD)
        # As passt's own are: where only a part of a frame is taken at once, it writes on to the end
        # of the frame, and would give up where that does not block.
        card.settimeout(None)
        for each in connections.values():
            each.settimeout(0)
        stack.enter_context(tools.card(card, options.published))
        channels = {name: each.fileno() for name, each in connections.items()}
        code = session.serve(channels, request, files, streams)
        if code is None:
            raise Unavailable("ended without an exit code", field="enclave")
        return code


@contextmanager
def _started(options: EnclaveOptions, tools: Tools) -> Iterator[int]:
    """An enclave, until the end of the block: its CID."""
    with tempfile.TemporaryDirectory(prefix="garrison-enclave-") as folder:
        eif = Path(folder) / "keep.eif"
        eif.write_bytes(enclave_image(options.image).to_bytes())
        said = tools.cli(
            [
                "run-enclave",
                *("--eif-path", str(eif)),
                *("--memory", str(options.memory)),
                *("--cpu-count", str(options.cpus)),
            ]
        )
    name, cid = _enclave(said)
    try:
        yield cid
    finally:
        # One that ended by itself is not there any more, and that is what is wanted.
        with suppress(Unavailable):
            tools.cli(["terminate-enclave", "--enclave-id", name])


def _enclave(said: bytes) -> tuple[str, int]:
    """Name and CID, in what `nitro-cli run-enclave` prints."""
    # Older ones tell of their progress before.
    text = said[said.find(b"{") :]
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    match document:
        case {"EnclaveID": str(name), "EnclaveCID": int(cid)} if 3 < cid < 1 << 32:
            return name, cid
    raise Malformed(
        "does not tell of an enclave",
        field=f"{NITRO_CLI} run-enclave",
        found=plain(said[:_MAX_REASON].decode(errors="replace")) or "nothing",
        expected="EnclaveID and EnclaveCID",
    )


def _connected(
    connect: Callable[[int], socket.socket], asked: Asked, seconds: float
) -> dict[str, socket.socket] | None:
    """Connect to all ports; None if somebody asked us to end before."""
    connections: dict[str, socket.socket] = {}
    end = time.monotonic() + seconds
    for name, port in {**PORTS, CARD: CARD_PORT}.items():
        while name not in connections:
            try:
                connections[name] = connect(port)
            except OSError as error:
                if time.monotonic() >= end:
                    raise Unavailable(
                        f"did not listen in {seconds:.0f} s",
                        field=f"enclave: channel {name}",
                        found=error.strerror or str(error),
                        hint="see why with nitro-cli run-enclave --debug-mode, then console",
                    ) from error
                pause = min(time.monotonic() + _TRY_SECONDS, end)
                carry([asked], lambda: bool(asked.numbers), lambda: pause)  # noqa: B023
            if asked.numbers:
                for each in connections.values():
                    each.close()
                return None
    return connections


class _Published:
    """The ports that passt was started with: it forwards no others."""

    def __init__(self, published: Sequence[Publication]) -> None:
        self._ports = {(each.guest, each.udp) for each in published}

    def forward(self, port: int, told: Callable[[int], None], *, udp: bool = False) -> None:
        if (port, udp) in self._ports:
            told(0)
            return
        log.warning(
            "the workload listens on port %d%s, which --publish does not name",
            port,
            "/udp" if udp else "",
        )
        told(errno.EADDRNOTAVAIL)
