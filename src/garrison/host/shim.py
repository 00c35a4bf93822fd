"""One keep's keeper: `python -m garrison.host.shim DIRECTORY [CGROUP [IMAGE [SIMULATOR]]]`.

A process of its own. It starts the keep, writes down what it prints, starts it again as its policy
says, and ends it when it is told to. The agent starts it and may then end: keeps go on, and the
next agent finds them. Where a CGROUP is named it goes there first, and so does all that it starts;
what the command line leaves out may be empty.

Its socket, `control`, takes one line of JSON a connection:

    {"do": "stop"}      end the keep, gently at first; the connection closes when it has ended
    {"do": "attach"}    what the client sends from then on is the keep's standard input, and all
                        that the keep prints is sent back
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from garrison.formats.launch_request import MAX_SIZE
from garrison.host.cgroups import join
from garrison.host.record import Phase, Record, State
from garrison.host.spec import MACHINES, NO_MEMORY

if TYPE_CHECKING:
    from garrison.host.spec import KeepSpec

# Both halves of a log together.
LOG_BYTES = 8 << 20
#: The most that a keep takes of the disk: its log, what was asked for (at most twice `MAX_SIZE`,
#: written with other blanks), the console of a machine that failed, and what its keeper says.
KEEP_BYTES = LOG_BYTES + 2 * MAX_SIZE + (1 << 20)
# In the keep's directory: what it leaves behind, of its last run alone.
_TEMPORARY = "tmp"
_STOP_SECONDS = 10.0
# Between one start and the next, doubled each time; a keep that ran for long begins anew.
_FIRST_PAUSE = 1.0
_LAST_PAUSE = 60.0
_LONG_RUN = 300.0
_MAX_ATTACHED = 8
_MAX_COMMAND = 256
# What an attached client has not read yet; beyond, it is let go.
_MAX_UNSENT = 1 << 20
_CHUNK = 1 << 16


class Shim:
    """The keeper of one keep."""

    def __init__(self, record: Record, image: str = "", simulator: str = "") -> None:
        self._record = record
        self._image, self._simulator = image, simulator
        self._spec: KeepSpec = record.spec()
        self._selector = selectors.DefaultSelector()
        self._keep: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._kill_at: float | None = None
        self._restarts = 0
        self._code: int | None = None
        self._log = _Log(record)
        self._attached: dict[socket.socket, bytearray] = {}
        self._stopping: list[socket.socket] = []
        # What is to be written down, as long as the disk does not take it.
        self._unwritten: State | None = None

    def run(self) -> None:
        """Look after the keep until it has ended for good."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        self._record.control.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        # A socket's name is short (unix(7)); ours is not.
        os.chdir(self._record.path)
        listener.bind("control")
        listener.listen(16)
        listener.settimeout(0)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        try:
            pause = _FIRST_PAUSE
            while True:
                started = time.monotonic()
                self._run_once()
                if self._stopped or not self._again():
                    break
                pause = _FIRST_PAUSE if time.monotonic() - started > _LONG_RUN else pause
                self._write("waiting")
                self._log.note(f"ended with {self._code}; started again in {pause:.0f} s")
                self._wait_until(time.monotonic() + pause)
                if self._stopped:
                    break
                pause = min(2 * pause, _LAST_PAUSE)
                self._restarts += 1
        finally:
            self._record.control.unlink(missing_ok=True)
            self._write("ended")
            for client in [*self._attached, *self._stopping]:
                client.close()

    def _again(self) -> bool:
        policy = self._spec.restart
        return policy == "always" or (policy == "on-failure" and self._code != 0)

    def _run_once(self) -> None:
        receive, send = os.pipe()
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"}
        if home := os.environ.get("HOME"):
            environment["HOME"] = home
        environment["TMPDIR"] = self._temporary()
        self._keep = subprocess.Popen(
            [sys.executable, "-I", "-m", *self._command_of(receive)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(receive,),
            env=environment,
            preexec_fn=self._limit,  # noqa: PLW1509  (one system call, and no other thread)
        )
        os.close(receive)
        with contextlib.suppress(BrokenPipeError), os.fdopen(send, "wb") as pipe:
            pipe.write(self._spec.launch.to_json())
        self._write("running")
        streams = {self._keep.stdout: "stdout", self._keep.stderr: "stderr"}
        for stream, name in streams.items():
            assert stream is not None  # noqa: S101  (opened above)
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ, name)
        assert self._keep.stdin is not None  # noqa: S101  (opened above)
        os.set_blocking(self._keep.stdin.fileno(), False)
        left = len(streams)
        while left:
            left -= self._step(None)
        code = self._keep.wait()
        self._keep.stdin.close()
        self._keep, self._kill_at = None, None
        self._code = code if code >= 0 else 128 - code
        self._log.flush()

    def _temporary(self) -> str:
        """An empty directory for what the keep leaves behind."""
        path = self._record.path / _TEMPORARY
        # A full disk costs what would be there, and not the keep.
        with contextlib.suppress(OSError):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(mode=0o700)
        return str(path)

    def _command_of(self, receive: int) -> list[str]:
        spec = self._spec
        if spec.backend not in MACHINES:
            return ["garrison.keep", str(receive)]
        memory = NO_MEMORY if spec.memory_mib is None else str(spec.memory_mib)
        machine = [str(receive), spec.backend, self._image, memory]
        return ["garrison.host.machine", *machine, *filter(None, [self._simulator])]

    def _limit(self) -> None:
        # A machine has what it was made with.
        if self._spec.memory_mib is not None and self._spec.backend not in MACHINES:
            size = self._spec.memory_mib << 20
            # Of private memory that can be written: an engine reserves far more than it uses.
            resource.setrlimit(resource.RLIMIT_DATA, (size, size))

    def _wait_until(self, deadline: float) -> None:
        while not self._stopped and (left := deadline - time.monotonic()) > 0:
            self._step(left)

    def _step(self, seconds: float | None) -> int:
        """Wait for something, and do it; how many of the keep's streams have ended."""
        if self._kill_at is not None:
            until_kill = self._kill_at - time.monotonic()
            if until_kill <= 0 and self._keep is not None:
                self._keep.kill()
                self._kill_at = None
            elif seconds is None or until_kill < seconds:
                seconds = max(0.0, until_kill)
        self._write_down()
        ended = 0
        # A signal's handler wakes it too: what is asked for then is looked at by the caller.
        for key, events in self._selector.select(1.0 if seconds is None else min(seconds, 1.0)):
            if callable(key.data):
                key.data(key.fileobj, events)
            else:
                ended += self._output(key)
        return ended

    def _output(self, key: selectors.SelectorKey) -> int:
        try:
            data = os.read(key.fd, _CHUNK)
        except BlockingIOError:
            return 0
        if not data:
            self._selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]  # a pipe of the keep's
            return 1
        self._log.add(key.data, data)
        for client in list(self._attached):
            self._send(client, data)
        return 0

    def _stop(self) -> None:
        self._stopped = True
        if self._keep is not None and self._kill_at is None:
            self._keep.terminate()
            self._kill_at = time.monotonic() + _STOP_SECONDS

    def _accept(self, listener: socket.socket, _events: int) -> None:
        client, _ = listener.accept()
        client.settimeout(0)
        self._selector.register(client, selectors.EVENT_READ, self._command)

    def _command(self, client: socket.socket, _events: int) -> None:
        """Do what a client asks; a line of a few bytes comes whole."""
        self._selector.unregister(client)
        try:
            asked = json.loads(client.recv(_MAX_COMMAND, socket.MSG_PEEK).partition(b"\n")[0])
            # No more than the line: what follows is standard input.
            client.recv(len(client.recv(_MAX_COMMAND, socket.MSG_PEEK).partition(b"\n")[0]) + 1)
            what = asked["do"]
        except (OSError, ValueError, KeyError, TypeError):
            client.close()
            return
        if what == "stop":
            self._stopping.append(client)
            self._stop()
        elif what == "attach" and len(self._attached) < _MAX_ATTACHED:
            self._attached[client] = bytearray()
            self._selector.register(client, selectors.EVENT_READ, self._exchange)
        else:
            client.close()

    def _exchange(self, client: socket.socket, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send(client, b"")
        if not events & selectors.EVENT_READ or client not in self._attached:
            return
        try:
            data = client.recv(_CHUNK)
        except OSError:
            data = b""
        if not data:
            self._detach(client)
        elif self._keep is not None and self._keep.stdin is not None:
            # A workload that does not read its input loses it, rather than stop its keeper.
            with contextlib.suppress(OSError):
                os.write(self._keep.stdin.fileno(), data)

    def _send(self, client: socket.socket, data: bytes) -> None:
        unsent = self._attached[client]
        unsent += data
        try:
            del unsent[: client.send(unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._detach(client)
            return
        if len(unsent) > _MAX_UNSENT:
            self._detach(client)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
        self._selector.modify(client, events, self._exchange)

    def _detach(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        del self._attached[client]
        client.close()

    def _write(self, phase: Phase) -> None:
        pid = None if self._keep is None else self._keep.pid
        self._unwritten = State(phase, os.getpid(), pid, self._restarts, self._code, self._stopped)
        self._write_down()

    def _write_down(self) -> None:
        """Write down how the keep is; a full disk costs that for a while, and not the keep."""
        if self._unwritten is not None:
            with contextlib.suppress(OSError):
                self._record.write_state(self._unwritten)
                self._unwritten = None


class _Log:
    """What the keep prints, line by line, in two files of bounded size."""

    def __init__(self, record: Record) -> None:
        self._path = record.log
        self._file = self._open()
        self._partial: dict[str, bytes] = {}

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, stream: str, data: bytes) -> None:
        """Take what came from `stream`."""
        *lines, rest = (self._partial.pop(stream, b"") + data).split(b"\n")
        for line in lines:
            self._line(stream, line)
        if len(rest) >= _CHUNK:
            self._line(stream, rest)
        elif rest:
            self._partial[stream] = rest

    def note(self, text: str) -> None:
        """Take what the keeper itself has to say."""
        self._line("host", text.encode())

    def flush(self) -> None:
        """Write lines that were not ended."""
        for stream in list(self._partial):
            self._line(stream, self._partial.pop(stream))

    def _line(self, stream: str, line: bytes) -> None:
        fields = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "stream": stream,
            "text": line.decode(errors="replace"),
        }
        # A full disk costs the log, not the keep.
        with contextlib.suppress(OSError):
            os.write(self._file, json.dumps(fields).encode() + b"\n")
            if os.fstat(self._file).st_size > LOG_BYTES // 2:
                os.close(self._file)
                self._path.replace(self._path.with_name("log.1"))
                self._file = self._open()


def main() -> int:
    """Look after the keep of the directory that the command line names."""
    # linux/prctl.h: PR_SET_DUMPABLE. Nothing here is secret, but its child inherits none either.
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    directory, *rest = sys.argv[1:]
    cgroup, *machine = rest or [""]
    if cgroup:
        join(Path(cgroup))
    Shim(Record(Path(directory)), *machine).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
