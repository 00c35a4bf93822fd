"""A WebAssembly guest that makes random calls with wild arguments, and the host that it attacks.

    python -m garrison.testing.hostcall_fuzzer --calls 10000000

The guest is made here, as text: a generator of random numbers, and for each function a call whose
arguments are of the right kind most of the time (a pointer into the memory, a descriptor that may
be open, a path that may exist) and wild otherwise: pointers at the memory's edge and far beyond,
lengths and offsets of all sizes, flags that nobody has. It counts what each function answered.

The host is the keep's own, whole: engine, host functions, virtual file system, sockets. Only what
would wait for long does not wait here. A run fails if anything but an errno comes out of a
function. What lies around the linear memory belongs to nobody (`guards`): reading or writing there
ends the process.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Literal

from garrison.formats.enarx_toml import Rule
from garrison.formats.limits import Limits
from garrison.keep.engine.library import wat2wasm
from garrison.keep.engine.runtime import memory_of
from garrison.keep.execute import execute
from garrison.keep.net.guard import Guard
from garrison.keep.net.policy import ANONYMOUS, Policy
from garrison.keep.net.stream import Stream
from garrison.keep.net.tls import Contexts, Handshake, Identity
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import NAMES, Errno
from garrison.keep.wasi import abi, host, poll, process
from garrison.testing.tls import Authority, workload

# What each argument is. f: a descriptor; d: a directory's; k: a socket's; F: one that may be closed
# or changed; p: a pointer; n: a length; v: buffers; t: a path, which is two arguments; s: a small
# number or flags; q: 64 bits; u: subscriptions.
_KINDS = {
    "args_get": "pp",
    "args_sizes_get": "pp",
    "clock_res_get": "sp",
    "clock_time_get": "sqp",
    "environ_get": "pp",
    "environ_sizes_get": "pp",
    "fd_advise": "fqqs",
    "fd_allocate": "fqq",
    "fd_close": "F",
    "fd_datasync": "f",
    "fd_fdstat_get": "fp",
    "fd_fdstat_set_flags": "fs",
    "fd_fdstat_set_rights": "Fqq",
    "fd_filestat_get": "fp",
    "fd_filestat_set_size": "fq",
    "fd_filestat_set_times": "fqqs",
    "fd_pread": "fvsqp",
    "fd_prestat_dir_name": "fpn",
    "fd_prestat_get": "fp",
    "fd_pwrite": "fvsqp",
    "fd_read": "fvsp",
    "fd_readdir": "fpnqp",
    "fd_renumber": "FF",
    "fd_seek": "fqsp",
    "fd_sync": "f",
    "fd_tell": "fp",
    "fd_write": "fvsp",
    "path_create_directory": "dt",
    "path_filestat_get": "dstp",
    "path_filestat_set_times": "dstqqs",
    "path_link": "dstdt",
    "path_open": "dstsqqsp",
    "path_readlink": "dtpnp",
    "path_remove_directory": "dt",
    "path_rename": "dtdt",
    "path_symlink": "tdt",
    "path_unlink_file": "dt",
    "poll_oneoff": "upsp",
    "proc_raise": "s",
    "random_get": "pn",
    "sched_yield": "",
    "sock_accept": "ksp",
    "sock_recv": "kvsspp",
    "sock_send": "kvssp",
    "sock_shutdown": "ks",
}
_FUNCTIONS = tuple(_KINDS)
_TYPES = {"I": "i32", "Q": "i64", "q": "i64"}
_PATHS = (
    "tmp/a", "tmp/b", "tmp/c", "tmp/d", "tmp/d/e", "tmp/d/../a", "tmp/l", "tmp", ".", "..", "/", "",
    "tmp/d/", "a", "../tmp/a", "dev/null", "dev/zero", "dev/urandom", "pkg/main.wasm", "pkg/x/y",
    "net/con/host:1", "net/lis/1", "net/peer/con", "net/peer/lis", "net/peer/fd/5", "key/trust",
    "key/generate", "key", "tmp/\u00e4", "net", "dev", "tmp/l/l/l",
)  # fmt: skip

# The guest's memory. Pointers of the right kind lead into its first page and to its end. The
# counts, of each function and errno, stand between, where few of the wild ones hit them.
_MONOTONIC = 1  # the number of the clock
_PAGES = 4
_SIZE = _PAGES << 16
_NAMES_AT = 0xE000
_NAME_ROOM = 32
_VECTORS_AT = 0xF000
_POLLS_AT = 0xF400
_COUNTS_AT = 0x30000
_ERRNOS = 128
# The root directory comes after the streams, a connection and a listener.
_ROOT = 5
_COUNTS = len(_FUNCTIONS) * _ERRNOS * 4
# How many calls one instance makes: then all begins anew, with every descriptor.
CALLS_PER_RUN = 20_000
_CODE = 42


def module() -> bytes:
    """The guest: its first call, of `random_get`, gets its seed."""
    imports = "\n".join(_import(name) for name in (*_FUNCTIONS, "proc_exit"))
    calls = "\n".join(
        f"(func $call{index} (result i32) {_call(name)})" for index, name in enumerate(_FUNCTIONS)
    )
    elements = " ".join(f"$call{index}" for index in range(len(_FUNCTIONS)))
    names = "".join(_padded(path) for path in _PATHS)
    return wat2wasm(f"""(module {imports}
      (memory (export "memory") {_PAGES} {_PAGES})
      (table {len(_FUNCTIONS)} funcref) (elem (i32.const 0) {elements})
      (type $call (func (result i32)))
      (data $names "{names}")
      (global $seed (export "seed") (mut i64) (i64.const 0))
      (global $left (export "left") (mut i32) (i32.const 0))
      (global $name (mut i32) (i32.const 0))
      {_HELPERS}
      {calls}
      (func (export "_start") (local $which i32) (local $place i32)
        (drop (call $random_get (i32.const 0) (i32.const 16)))
        (global.set $seed (i64.or (i64.load (i32.const 0)) (i64.const 1)))
        (global.set $left (i32.const {CALLS_PER_RUN}))
        (loop $next
          (if (i32.eqz (i32.and (global.get $left) (i32.const 63))) (then (call $prepare)))
          (local.set $which (i32.wrap_i64 (i64.rem_u (i64.shr_u (call $random) (i64.const 8))
            (i64.const {len(_FUNCTIONS)}))))
          (local.set $place (i32.and (call_indirect (type $call) (local.get $which))
            (i32.const {_ERRNOS - 1})))
          (local.set $place (i32.add (i32.const {_COUNTS_AT}) (i32.shl (i32.add (local.get $place)
            (i32.mul (local.get $which) (i32.const {_ERRNOS}))) (i32.const 2))))
          (i32.store (local.get $place)
            (i32.add (i32.load (local.get $place)) (i32.const 1)))
          (global.set $left (i32.sub (global.get $left) (i32.const 1)))
          (br_if $next (global.get $left)))
        (call $proc_exit (i32.const {_CODE}))))""")


# xorshift64* (Marsaglia, Vigna). `$one_in n` is 1 once in 2^n times. Numbers are small mostly.
_HELPERS = f"""
  (func $random (result i64)
    (global.set $seed (i64.xor (global.get $seed) (i64.shr_u (global.get $seed) (i64.const 12))))
    (global.set $seed (i64.xor (global.get $seed) (i64.shl (global.get $seed) (i64.const 25))))
    (global.set $seed (i64.xor (global.get $seed) (i64.shr_u (global.get $seed) (i64.const 27))))
    (i64.mul (global.get $seed) (i64.const 0x2545F4914F6CDD1D)))
  (func $one_in (param $bits i64) (result i32)
    (i64.eqz (i64.shr_u (call $random) (i64.sub (i64.const 64) (local.get $bits)))))
  (func $word (result i32) (i32.wrap_i64 (i64.shr_u (call $random) (i64.const 20))))
  (func $f (result i32)
    (if (call $one_in (i64.const 6)) (then (return (call $word))))
    (i32.and (call $word) (i32.const 15)))
  (func $d (result i32)
    (if (call $one_in (i64.const 4)) (then (return (call $f))))
    (i32.const {_ROOT}))
  (func $k (result i32)
    (if (call $one_in (i64.const 2)) (then (return (call $f))))
    (i32.add (i32.const {_ROOT - 2}) (i32.and (call $word) (i32.const 1))))
  (func $F (result i32)
    (if (call $one_in (i64.const 6)) (then (return (call $word))))
    (if (call $one_in (i64.const 12)) (then (return (i32.and (call $word) (i32.const 7)))))
    (i32.or (i32.and (call $word) (i32.const 31)) (i32.const 8)))
  (func $p (result i32)
    (if (call $one_in (i64.const 5)) (then (return (call $word))))
    (if (call $one_in (i64.const 5)) (then
      (return (i32.add (i32.const {_SIZE - 64}) (i32.and (call $word) (i32.const 127))))))
    (i32.and (call $word) (i32.const 0xDFFF)))
  (func $n (result i32)
    (if (call $one_in (i64.const 5)) (then (return (call $word))))
    (if (call $one_in (i64.const 4)) (then (return (i32.and (call $word) (i32.const 0xFFFF)))))
    (i32.and (call $word) (i32.const 127)))
  (func $s (result i32)
    (if (call $one_in (i64.const 6)) (then (return (call $word))))
    (i32.and (i32.and (call $word) (call $word)) (i32.const 15)))
  (func $q (result i64)
    (if (call $one_in (i64.const 3)) (then (return (call $random))))
    (if (call $one_in (i64.const 2)) (then (return (i64.const 0x3FFFFFFF))))
    (if (call $one_in (i64.const 5)) (then
      (return (i64.shl (i64.const 1) (i64.and (call $random) (i64.const 63))))))
    (i64.and (i64.shr_u (call $random) (i64.const 20)) (i64.const 1023)))
  (func $v (result i32)
    (if (call $one_in (i64.const 5)) (then (return (call $p))))
    (i32.const {_VECTORS_AT}))
  (func $u (result i32)
    (if (call $one_in (i64.const 3)) (then (return (call $p))))
    (i32.const {_POLLS_AT}))
  (func $t (result i32)
    (if (call $one_in (i64.const 6)) (then
      (global.set $name (call $n)) (return (call $p))))
    (global.set $name (i32.mul (i32.and (call $word) (i32.const {len(_PATHS) - 1}))
      (i32.const {_NAME_ROOM})))
    (global.set $name (i32.add (global.get $name) (i32.const {_NAMES_AT})))
    (global.get $name)
    (global.set $name (i32.load8_u (i32.add (global.get $name) (i32.const {_NAME_ROOM - 1})))))
  (func $prepare (local $at i32)
    (memory.init $names (i32.const {_NAMES_AT}) (i32.const 0)
      (i32.const {len(_PATHS) * _NAME_ROOM}))
    (local.set $at (i32.const {_VECTORS_AT}))
    (loop $vector
      (i32.store (local.get $at) (call $p))
      (i32.store offset=4 (local.get $at) (i32.and (call $word) (i32.const 255)))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $vector (i32.lt_u (local.get $at) (i32.const {_VECTORS_AT + 0x80}))))
    (local.set $at (i32.const {_POLLS_AT}))
    (loop $poll
      (i64.store (local.get $at) (call $random))
      (i32.store offset=8 (local.get $at) (i32.and (call $word) (i32.const 3)))
      (i32.store offset=16 (local.get $at) (call $f))
      (i64.store offset=24 (local.get $at) (call $q))
      (i64.store offset=32 (local.get $at) (call $q))
      (i32.store offset=40 (local.get $at) (call $s))
      (local.set $at (i32.add (local.get $at) (i32.const 48)))
      (br_if $poll (i32.lt_u (local.get $at) (i32.const {_POLLS_AT + 16 * 48})))))
"""


def _import(name: str) -> str:
    parameters = " ".join(_TYPES[letter] for letter in abi.SIGNATURES[name])
    result = "" if name in abi.NO_RESULT else "(result i32)"
    return f'(import "{abi.MODULE}" "{name}" (func ${name} (param {parameters}) {result}))'


def _call(name: str) -> str:
    values = []
    for kind in _KINDS[name]:
        values.append(f"(call ${kind})")
        if kind == "t":
            values.append("(global.get $name)")
    return f"(call ${name} {' '.join(values)})"


def _padded(path: str) -> str:
    data = path.encode()
    return "".join(
        f"\\{byte:02x}" for byte in data.ljust(_NAME_ROOM - 1, b"\0") + bytes([len(data)])
    )


def _ends() -> tuple[Stream, Stream]:
    """Both ends of a plain connection."""
    pair = socket.socketpair()
    for end in pair:
        end.settimeout(0)
    return Stream(pair[0], ANONYMOUS), Stream(pair[1], ANONYMOUS)


class _Tls:
    """Makes connections with TLS, by the keep's own handshakes."""

    def __init__(self) -> None:
        authority = Authority()
        leaf = authority.issue(workload(), hosts=("localhost",))
        self._contexts = Contexts(Identity(leaf.chain, leaf.key), [authority.root])
        self._guard = Guard()
        rule = Rule(trust="steward")
        self._policies = [Policy("fuzzer", rule, incoming=incoming) for incoming in (True, False)]

    def ends(self) -> tuple[Stream, Stream]:
        """Both ends of one."""
        pair = socket.socketpair()
        both = []
        for sock, policy in zip(pair, self._policies, strict=True):
            sock.settimeout(0)
            context = self._contexts.get(policy)
            both.append(Handshake(sock, context, policy, self._guard, host="localhost"))
        # Each has a word to say before it waits for the other's; one that is done waits no more.
        left = both[::-1]
        while left:
            left = [each for each in left if each.step()]
        return both[0].stream(), both[1].stream()


class _FakeNetwork:
    """Connections, every other one with TLS, whose other ends are here and never say much."""

    def __init__(self, tls: _Tls) -> None:
        self._tls = tls
        self._made = 0
        self._others: deque[Stream] = deque()

    def connect(self, target: str, _wait: object = None) -> Stream:
        if len(target) % 3 == 0:
            raise ConnectionRefusedError(111, "refused")
        self._made += 1
        ours, theirs = self._tls.ends() if self._made % 2 else _ends()
        theirs.write(memoryview(b"hello" * (len(self._others) % 3)))
        self._others.append(theirs)
        if len(self._others) > 8:
            self._others.popleft().close()
        return ours

    def listen(self, _target: str) -> _FakeListener:
        return _FakeListener(self)

    def listen_within(self, _address: str) -> _FakeListener:
        return self.listen("")

    def listen_all(self) -> list[_FakeListener]:
        return [self.listen("")]

    def check_outgoing(self, target: str) -> None:
        pass

    def speaks_udp(self) -> bool:
        return False

    def datagrams(self, *, ipv6: bool) -> Any:
        raise AssertionError(f"a module has no datagrams, over IPv{6 if ipv6 else 4} or else")

    def next_event(self, direction: Literal["con", "lis"]) -> dict[str, Any] | None:
        return {"direction": direction} if self._others else None

    def close(self) -> None:
        while self._others:
            self._others.pop().close()


class _FakeListener:
    port = 1
    protocols = ()
    restless = True

    def __init__(self, network: _FakeNetwork) -> None:
        self._network = network
        self._socket = socket.socket(socket.AF_UNIX)
        self._left = 5

    def fileno(self) -> int:
        return self._socket.fileno()

    def ready(self) -> bool:
        return self._left > 0

    def accept(self) -> Stream:
        if not self._left:
            raise BlockingIOError
        self._left -= 1
        return self._network.connect("accepted")

    def timeout(self) -> float | None:
        return 0.001

    def close(self) -> None:
        self._socket.close()


class Fuzzer:
    """Runs the guest, again and again, and adds up what it counted.

    Attributes:
        calls: how many calls were made.
        counts: of each function and errno, by their names.
        guarded: the least that any memory had of guards, before and after it.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.counts: dict[tuple[str, str], int] = {}
        self._wasm = module()
        self._tls = _Tls()
        self.guarded = (1 << 64, 1 << 64)

    def run(self, calls: int, seed: int) -> None:
        """Make at least so many calls, in instances of `CALLS_PER_RUN`.

        Raises:
            BaseException: something else than an errno came out of a function.
        """
        with _patched(self, seed):
            for _ in range(-(-calls // CALLS_PER_RUN)):
                self._once()

    def _once(self) -> None:
        network = _FakeNetwork(self._tls)
        try:
            code = execute(
                self._wasm,
                args=["main.wasm", "a", "\u00e4" * 50],
                env={"A": "1", "B": "x" * 100},
                descriptors=[
                    *([("", None)] * 3),
                    ("connection", network.connect("open")),
                    ("listener", network.listen("1")),
                ],
                files={"main.wasm": self._wasm, "x/y": b"text"},
                network=network,
                limits=Limits(tmp=1 << 20, descriptors=40, keys=16),
            )
        finally:
            network.close()
        if code != _CODE:
            raise AssertionError(f"the guest ended with {code}")

    def _add(self, running: host.Host) -> None:
        counts = running.memory.view(_COUNTS_AT, _COUNTS).cast("I")
        for index, name in enumerate(_FUNCTIONS):
            for number in range(_ERRNOS):
                count = counts[index * _ERRNOS + number]
                if 0 < count <= CALLS_PER_RUN:
                    key = (name, NAMES[number] if number < len(NAMES) else str(number))
                    self.counts[key] = self.counts.get(key, 0) + count
        self.calls += CALLS_PER_RUN
        before, after = guards(*memory_of(running.memory.caller))
        self.guarded = (min(before, self.guarded[0]), min(after, self.guarded[1]))


class _patched:  # noqa: N801  (used as a function is)
    """The host with its waits cut short, its random numbers of a seed, and its end told."""

    def __init__(self, fuzzer: Fuzzer, seed: int) -> None:
        self._fuzzer = fuzzer
        self._seed = seed
        self._saved = (process.proc_exit, process.random_get, host.Host.wait_for, poll.Poll.run)

    def __enter__(self) -> None:
        real_exit, real_random, real_wait, real_run = self._saved
        started = [0]

        def proc_exit(running: host.Host, code: int) -> None:
            self._fuzzer._add(running)  # noqa: SLF001
            real_exit(running, code)

        def random_get(running: host.Host, buffer: int, size: int) -> None:
            real_random(running, buffer, size)
            if (buffer, size) == (0, 16):
                # The guest's first call: its seed.
                started[0] += 1
                number = (self._seed * 1_000_003 + started[0]) * 0x9E3779B97F4A7C15
                running.memory.view(0, 8)[:] = (number % (1 << 64)).to_bytes(8, "little")

        def wait_for(running: host.Host, descriptor: Any, *, write: bool) -> None:
            if descriptor.flags & abi.NONBLOCK or not descriptor.ready(write=write):
                raise Errno(errno.AGAIN)
            real_wait(running, descriptor, write=write)

        def run(polling: poll.Poll) -> Any:
            # One clock more ends each wait at once. It is not to be told: no room was made for it.
            room = len(polling.wanted) // 48
            polling._clocks.append((0, 0, _MONOTONIC, 10_000))  # noqa: SLF001
            try:
                return real_run(polling)[:room]
            finally:
                polling._clocks.pop()  # noqa: SLF001

        process.proc_exit = proc_exit  # type: ignore[assignment]  # for a run
        process.random_get = random_get  # type: ignore[assignment]  # for a run
        host.Host.wait_for = wait_for  # type: ignore[method-assign,assignment]  # for a run
        poll.Poll.run = run  # type: ignore[method-assign,assignment]  # likewise

    def __exit__(self, *_: object) -> None:
        process.proc_exit, process.random_get = self._saved[:2]
        host.Host.wait_for = self._saved[2]  # type: ignore[method-assign]  # as it was
        poll.Poll.run = self._saved[3]  # type: ignore[method-assign]  # likewise


def guards(address: int, size: int) -> tuple[int, int]:
    """How many bytes before and after a linear memory nobody can read or write.

    Args:
        address: where it is.
        size: how long it is now.
    """
    before = after = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights = line.split()[:2]
        start, end = (int(number, 16) for number in span.split("-"))
        if rights.startswith("---"):
            if end == address:
                before = end - start
            if start == address + size:
                after = end - start
    return before, after


def main() -> int:
    """Run it from the command line, and print what was answered."""
    parser = argparse.ArgumentParser(description="Attack the keep's host functions.")
    parser.add_argument("--calls", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    options = parser.parse_args()
    # What the keep would log of each refusal is not what is looked for.
    logging.disable()
    print(f"seed {options.seed}", flush=True)
    fuzzer = Fuzzer()
    started = time.monotonic()
    while fuzzer.calls < options.calls:
        fuzzer.run(min(1_000_000, options.calls - fuzzer.calls), options.seed + fuzzer.calls)
        print(f"{fuzzer.calls} calls, {time.monotonic() - started:.0f} s", flush=True)
    before, after = fuzzer.guarded
    print(f"around the memory: {before >> 20} MiB before it and {after >> 20} MiB after it")
    for name in _FUNCTIONS:
        answers = {number: n for (function, number), n in fuzzer.counts.items() if function == name}
        told = ", ".join(f"{k} {v}" for k, v in sorted(answers.items(), key=lambda kv: -kv[1]))
        print(f"{name}: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
