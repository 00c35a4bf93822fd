"""One keep, from the host's request to its exit code, over the channels to the host.

The keep is a child of this process, and lives as any other (`garrison.keep.life`). Here its
standard streams are carried, and the host's word is: what to run, and a signal that asks it to
end. Nothing else can be said. What is not a frame, comes twice or is too long ends the keep; so
does a channel that is closed, for a keep whose host is gone serves nobody. The reason is told on
standard error and on the console.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import select
import sys
import time
from _thread import allocate_lock

from garrison.errors import GarrisonError, Malformed, Misuse
from garrison.formats.channel import (
    CONTROL,
    MAX_FILE,
    STDERR,
    STDIN,
    STDOUT,
    TO_KEEP,
    File,
    Frame,
    Kind,
    Phase,
    Reachable,
)
from garrison.formats.guest_request import GuestRequest, Local
from garrison.image import init
from garrison.keep import logs
from garrison.keep.start import start
from garrison.relay import Flow, Messages, Watched, carry, closed
from garrison.terminal import plain, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import socket
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from cryptography import x509
else:
    # Their wrappers make enumerations, which costs a start 3 ms each.
    import _signal as signal
    import _socket as socket

# A package has few files; each costs memory beside its content.
_MAX_FILES = 1024
# Those by which a terminal or a supervisor asks a process to end.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MAIN = "main.wasm"
_PORT_SIZE = 2
# A port, and whether it is of UDP.
_QUESTION_SIZE = _PORT_SIZE + 1
_ANSWER_SIZE = 4
# What a keep asks for in place of a port, and is answered when it is there: the network.
_NETWORK = b"\0"


def serve(
    ports: Mapping[str, int],
    prepare: Callable[[GuestRequest], None],
    connect: Callable[[], None],
) -> int:
    """Serve a host's request, and return the exit code that it was told.

    Args:
        ports: the channels, open and not blocking, by name.
        prepare: sets the machine up as the request asks, without its network.
        connect: sets that up; called once, before a keep that may use it, or when it is used.
    """
    session = _Session(ports, connect)
    try:
        code = session.run(prepare)
    except Exception as error:  # noqa: BLE001  (the last door)
        code = session.fail(error)
    session.farewell(code)
    return code


class _Session:
    def __init__(self, ports: Mapping[str, int], connect: Callable[[], None]) -> None:
        self._ports = ports
        self._connect = connect
        self._control = Messages(ports[CONTROL], CONTROL, TO_KEEP, self._told)
        self._request: GuestRequest | None = None
        self._files: dict[str, bytes] = {}
        self._size = 0
        self._child: _Child | None = None
        self._signal = 0
        # The keep's ports, asked for and not answered yet.
        self._asked: list[int] = []
        self._here, self._keep_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The keep's ends are open here too, until it ends: what fails here is told there.
        (self._stdin, stdin), (stdout, self._stdout), (stderr, self._stderr) = (
            os.pipe() for _ in range(3)
        )
        self._in = Flow(ports[STDIN], stdin, channel=STDIN, framed=True, closes=True)
        self._out = [
            Flow(stdout, ports[STDOUT], channel=STDOUT, framed=False),
            Flow(stderr, ports[STDERR], channel=STDERR, framed=False),
        ]

    def run(self, prepare: Callable[[GuestRequest], None]) -> int:
        self._phase("kernel", init.started)
        self._phase("booted")
        carry([self._control], lambda: self._request is not None or self._stopped)
        request = self._request
        if request is None or self._signal:
            self._check_control()
            return 128 + self._signal
        self._phase("asked")
        prepare(request)
        if not _bare(request.what, self._files):
            self._connect()
        self._phase("ready")
        child = self._child = _Child(self._fork(request))
        watched: list[Watched] = [self._control, self._in, *self._out, child, self]
        carry(watched, lambda: child.code is not None or self._control.closed)
        self._check_control()
        assert child.code is not None  # noqa: S101  (else the channel is closed)
        return child.code

    def fail(self, error: Exception) -> int:
        """Tell what failed, end the keep, and return the exit code."""
        text = io.StringIO()
        with contextlib.redirect_stderr(text):
            code = report(error)
        print(text.getvalue(), end="", file=sys.stderr, flush=True)
        if self._child is not None:
            self._child.kill()
        # Another description of the pipe, for the keep's blocks: and it may be full.
        with contextlib.suppress(BlockingIOError):
            again = os.open(f"/proc/self/fd/{self._stderr}", os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(again, text.getvalue().encode())
            finally:
                os.close(again)
        return code

    def farewell(self, code: int) -> None:
        """Send what is left, and the exit code, and wait until the host hangs up."""
        self._control.deaf = True
        for descriptor in (self._stdin, self._stdout, self._stderr):
            os.close(descriptor)
        for flow in self._out:
            # One that the host has closed must not keep the other from it.
            with contextlib.suppress(GarrisonError):
                watched: list[Watched] = [self._control, flow]
                carry(watched, lambda flow=flow: flow.done or self._control.closed)  # type: ignore[misc]
        self._control.send(Frame(Kind.EXIT, bytes((code & 0xFF,))))
        # However long that takes: what the host has not read yet would be lost with the machine.
        carry([self._control], lambda: self._control.closed)

    def interest(self) -> Mapping[int, int]:
        """What the keep asks: the network, or whether it can be reached where it listens."""
        return {self._here.fileno(): select.POLLIN}

    def happened(self, _descriptor: int, _events: int) -> None:
        """Set the network up, or pass on to the host what is to be reached."""
        asked = self._here.recv(_QUESTION_SIZE)
        if asked == _NETWORK:
            self._connect()
            self._here.send(asked)
            return
        port, udp = asked[:_PORT_SIZE], any(asked[_PORT_SIZE:])
        self._asked.append(int.from_bytes(port, "little"))
        self._control.send(Frame(Kind.LISTENING_UDP if udp else Kind.LISTENING, port))

    @property
    def _stopped(self) -> bool:
        return self._control.closed or self._signal != 0

    def _check_control(self) -> None:
        if self._control.closed:
            raise closed(CONTROL)

    def _phase(self, name: str, seconds: float | None = None) -> None:
        if seconds is None:
            seconds = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._control.send(Frame(Kind.PHASE, Phase(name, seconds).to_bytes()))

    def _told(self, frame: Frame) -> None:
        """Take a frame of the host's on the channel of control."""
        if frame.kind is Kind.SIGNAL:
            self._ask_to_end(frame.body)
            return
        if frame.kind is Kind.REACHABLE:
            answer = Reachable.from_bytes(frame.body)
            if answer.port not in self._asked:
                raise Malformed("nobody asked", field=f"channel {CONTROL}: port {answer.port}")
            self._asked.remove(answer.port)
            self._here.send(frame.body)
            return
        if self._request is not None:
            raise Malformed("comes twice or too late", field=f"channel {CONTROL}: request")
        if frame.kind is Kind.REQUEST:
            self._request = GuestRequest.from_json(frame.body)
            return
        file = File.from_bytes(frame.body)
        self._size += len(file.content)
        if file.path in self._files or len(self._files) >= _MAX_FILES or self._size > MAX_FILE:
            raise Malformed(
                "comes twice, or too many, or too large in all",
                field=f"channel {CONTROL}: file {plain(file.path[:200])}",
                expected=f"at most {_MAX_FILES} files of {MAX_FILE} bytes in all",
            )
        self._files[file.path] = file.content

    def _ask_to_end(self, body: bytes) -> None:
        if len(body) != 1 or body[0] not in _SIGNALS:
            raise Malformed(
                "no signal that a host sends", field=f"channel {CONTROL}: signal", found=body.hex()
            )
        self._signal = body[0]
        if self._child is not None:
            self._child.signal(body[0])

    def _fork(self, request: GuestRequest) -> int:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        pid = os.fork()
        if pid == 0:
            self._be_the_keep(request)
        return pid

    def _be_the_keep(self, request: GuestRequest) -> NoReturn:
        code = 70
        try:
            for number, descriptor in enumerate((self._stdin, self._stdout, self._stderr)):
                os.dup2(descriptor, number)
            # It has nothing of the host's but these three; the evidence's channel it opens itself.
            here = os.dup2(self._keep_end.fileno(), 3, inheritable=False)
            os.closerange(4, os.sysconf("SC_OPEN_MAX"))
            asks = _Asks(socket.socket(fileno=here))
            code = start(
                lambda: _live(request, self._files, asks),
                request.log,
                logs_late=_bare(request.what, self._files),
            )
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            os._exit(code)


class _Asks:
    """In the keep: asks for the network, and whether it can be reached where it listens."""

    def __init__(self, supervisor: socket.socket) -> None:
        self._supervisor = supervisor
        # Of threads, one asks after the other.
        self._lock = allocate_lock()

    def connect_machine(self) -> None:
        """Wait until there is a network; where there is none, the supervisor ends this keep."""
        logs.set_up()  # what is imported next logs by itself
        with self._lock:
            self._supervisor.send(_NETWORK)
            self._supervisor.recv(len(_NETWORK))

    def __call__(self, address: str, port: int, udp: bool) -> None:
        """Ask, and wait for the answer.

        Raises:
            OSError: it cannot.
        """
        import ipaddress  # late: few listen

        if ipaddress.ip_address(address).is_loopback:
            return
        with self._lock:
            self._supervisor.send(port.to_bytes(_PORT_SIZE, "little") + bytes((udp,)))
            answer = Reachable.from_bytes(self._supervisor.recv(_ANSWER_SIZE))
        if answer.error:
            reason = os.strerror(answer.error)
            raise OSError(answer.error, f"the host cannot give port {port}: {reason}")


def _live(request: GuestRequest, files: Mapping[str, bytes], listening: _Asks) -> int:
    """Run what is asked for; each case imports what it needs, and no more: that takes seconds."""
    local = request.what
    if not isinstance(local, Local):
        from garrison.keep import life

        _settled()
        return life.live(local, listening=listening)
    if _MAIN not in files:
        raise Misuse("the host gave none", field=_MAIN)
    if _bare(local, files):
        from garrison.keep import bare

        _settled()
        network = bare.LateNetwork(listening, listening.connect_machine)
        return bare.run(files[_MAIN], local.arguments, network, cached=False)
    if local.steward is None:
        from garrison.keep import workload

        roots = _roots(local.roots)
        _settled()
        return workload.run(
            files,
            arguments=local.arguments,
            roots=roots,
            limits=local.limits,
            listening=listening,
        )
    from garrison.formats.tree import Package
    from garrison.keep import life
    from garrison.keep.identity import StewardClient

    _settled()
    return life.run_local(
        files,
        Package(files).digest,
        steward=StewardClient(local.steward, local.roots),
        attester=local.attester,
        arguments=local.arguments,
        limits=local.limits,
        listening=listening,
    )


def _bare(what: object, files: Mapping[str, bytes]) -> bool:
    """Whether a workload has the default stack, memory and files, and nobody's name or root."""
    return isinstance(what, Local) and what == Local(what.arguments) and files.keys() == {_MAIN}


def _roots(pem: str) -> list[x509.Certificate]:
    if not pem:
        return []
    from garrison.keep.identity import load_roots

    return load_roots(pem)


def _settled() -> None:
    """All is imported, and lives to the end: from here on garbage is looked for, beside that."""
    gc.freeze()
    gc.enable()


class _Child:
    """The keep's process.

    Attributes:
        code: its exit code, once it has ended; 128 + n if signal n ended it.
    """

    def __init__(self, pid: int) -> None:
        self.code: int | None = None
        self._pid = pid
        self._descriptor = os.pidfd_open(pid)

    def interest(self) -> Mapping[int, int]:
        """Its end."""
        return {self._descriptor: 1} if self.code is None else {}  # POLLIN

    def happened(self, _descriptor: int, _events: int) -> None:
        """Take its exit code."""
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self.code = code if code >= 0 else 128 - code
        os.close(self._descriptor)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.code is None:
            os.kill(self._pid, number)

    def kill(self) -> None:
        """End it, and wait until it has ended."""
        if self.code is None:
            os.kill(self._pid, signal.SIGKILL)
            self.happened(self._descriptor, 0)
