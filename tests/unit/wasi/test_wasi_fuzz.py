"""Random calls: by a guest, to the whole host; and one by one, each effect checked.

The long run is `python -m garrison.testing.hostcall_fuzzer` (docs/reference/wasi.md).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from garrison.formats.limits import Limits
from garrison.keep.vfs.errno import NAMES, Errno, of_host
from garrison.keep.vfs.nodes import _NODE_COST, Directory, File, Symlink
from garrison.keep.vfs.root import root_directory
from garrison.keep.vfs.streams import Null
from garrison.keep.wasi import abi
from garrison.keep.wasi.host import Host, Table, _function
from garrison.keep.wasi.interrupts import Interrupts
from garrison.testing.hostcall_fuzzer import CALLS_PER_RUN, Fuzzer

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.keep.vfs.nodes import Node

_MIB = 1 << 20


def _fuzz(calls: int, seed: int) -> Fuzzer:
    fuzzer = Fuzzer()
    logging.disable()
    try:
        fuzzer.run(calls, seed)
    finally:
        logging.disable(logging.NOTSET)
    assert fuzzer.calls >= calls
    # Whatever is read or written beyond the memory ends the process.
    assert min(fuzzer.guarded) >= 16 * _MIB
    return fuzzer


def test_a_guest_of_random_calls_gets_errnos_and_nothing_else() -> None:
    fuzzer = _fuzz(10 * CALLS_PER_RUN, seed=1)
    functions = {name for name, _ in fuzzer.counts}
    assert functions == set(abi.SIGNATURES) - {"proc_exit"}
    # It is no test if nothing ever works, or nothing ever fails.
    assert {name for name, number in fuzzer.counts if number == "SUCCESS"} >= functions - {
        "fd_fdstat_set_rights",
        "proc_raise",
        "path_link",
    }
    assert {name for name, number in fuzzer.counts if number != "SUCCESS"} == functions - {
        "sched_yield"
    }
    assert {number for _, number in fuzzer.counts} >= {"FAULT", "BADF", "NOSPC", "NOTCAPABLE"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_a_million_random_calls(seed: int) -> None:
    _fuzz(1_000_000, seed)


class _Memory:
    """Memory of which every change outside of what a call asked for is seen."""

    # So that every call asks: what is within the size that was seen, it takes without.
    size = 0

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.caller = 0
        self._asked: list[tuple[int, int]] = []

    def view(self, address: int, size: int) -> memoryview:
        if address + size > len(self.data):
            raise Errno(NAMES.index("FAULT"))
        self._asked.append((address, size))
        return memoryview(self.data)[address : address + size]

    def expect(self, address: int, size: int) -> None:
        self.view(address, size)

    @property
    def all(self) -> memoryview:
        return memoryview(self.data)

    def vector(self, address: int) -> memoryview:
        return self.vectors(address, 1)[0]

    def vectors(self, address: int, count: int) -> list[memoryview]:
        if count > 8:
            raise Errno(NAMES.index("INVAL"))
        places = self.view(address, 8 * count).cast("I")
        return [self.view(places[i], places[i + 1]) for i in range(0, 2 * count, 2)]


_SIZE = 4096
_NAMES = ("tmp/a", "tmp/b", "tmp/d", "tmp/d/e", "tmp/l", "tmp", "pkg/x", "dev/zero", "key", "..")
_POINTER = st.integers(0, _SIZE + 16) | st.sampled_from([_SIZE - 4, _SIZE, 2**32 - 1])
_FD = st.integers(0, 9) | st.sampled_from([2**31, 2**32 - 1])
_RIGHTS = st.sampled_from([0, (1 << 30) - 1, (1 << 64) - 1]) | st.integers(0, (1 << 30) - 1)
_ANY = {
    "I": st.integers(0, 16) | _POINTER | st.integers(0, 2**32 - 1),
    "Q": st.integers(0, 5000) | _RIGHTS | st.integers(0, 2**64 - 1),
    "q": st.integers(-5000, 5000) | st.integers(-(2**63), 2**63 - 1),
}
_PLAIN = sorted(set(abi.SIGNATURES) - {"proc_exit", "proc_raise", "poll_oneoff"})


class Hostcalls(RuleBasedStateMachine):
    """One guest's calls, in any order; after each the host must be in order."""

    def __init__(self) -> None:
        super().__init__()
        self._interrupts = Interrupts(lambda: None)
        self._interrupts.__enter__()
        self._limits = Limits(tmp=20_000, descriptors=10, keys=2)
        self._table = Table(self._limits.descriptors)
        self._host = Host(["a", "bc"], {"D": "e"}, self._table, self._interrupts)
        self._memory = _Memory(_SIZE)
        self._host.memory = self._memory  # type: ignore[assignment]  # of the same shape
        self._root = root_directory(
            {"x": b"text"}, None, self._table, self._limits, self._interrupts.wait
        )
        for _ in range(3):
            self._table.insert(Null())
        self._reopen()

    def teardown(self) -> None:
        self._table.close()
        self._interrupts.__exit__()

    def _reopen(self) -> None:
        opened = self._root.open(read=True, write=False)
        opened.preopened = "/"
        self._table.insert(opened)

    def _call(self, name: str, *values: int) -> int:
        self._memory._asked.clear()
        before = bytes(self._memory.data)
        function: Callable[..., None] = _function(name)
        try:
            function(self._host, *values)
            number = 0
        except Errno as error:
            number = error.number
        except MemoryError:
            number = NAMES.index("NOMEM")
        except OSError as error:
            number = of_host(error)
        after = self._memory.data
        if after != before:
            for address, size in self._memory._asked:
                before = (
                    before[:address] + after[address : address + size] + before[address + size :]
                )
            assert after == before, f"{name} wrote where nobody asked"
        return number

    @rule(name=st.sampled_from(_PLAIN), data=st.data())
    def anything(self, name: str, data: st.DataObject) -> None:
        letters = abi.SIGNATURES[name]
        values = [data.draw(_ANY[letter]) for letter in letters]
        if name.startswith(("fd_", "path_", "sock_")):
            values[0] = data.draw(_FD)
        self._call(name, *values)

    @precondition(lambda self: 3 in self._table)
    @rule(
        path=st.sampled_from(_NAMES),
        oflags=st.integers(0, 15),
        rights=_RIGHTS,
        flags=st.integers(0, 31),
    )
    def open(self, path: str, oflags: int, rights: int, flags: int) -> None:
        size = self._path(path)
        self._call("path_open", 3, 1, 0, size, oflags, rights, rights, flags, 128)

    @rule(
        name=st.sampled_from(
            ["path_create_directory", "path_remove_directory", "path_unlink_file"]
        ),
        path=st.sampled_from(_NAMES),
    )
    def change(self, name: str, path: str) -> None:
        self._call(name, 3, 0, self._path(path))

    @rule(
        name=st.sampled_from(["path_link", "path_rename", "path_symlink"]),
        old=st.sampled_from(_NAMES),
        new=st.sampled_from(_NAMES),
    )
    def move(self, name: str, old: str, new: str) -> None:
        size, other = self._path(old), self._path(new, 64)
        if name == "path_link":
            self._call(name, 3, 0, 0, size, 3, 64, other)
        elif name == "path_rename":
            self._call(name, 3, 0, size, 3, 64, other)
        else:
            self._call(name, 0, size, 3, 64, other)

    @rule(fd=st.integers(3, 9), size=st.integers(0, 3000), offset=st.integers(0, 30_000))
    def write(self, fd: int, size: int, offset: int) -> None:
        self._memory.data[256:264] = (512).to_bytes(4, "little") + size.to_bytes(4, "little")
        self._call("fd_pwrite", fd, 256, 1, offset, 128)
        self._call("fd_write", fd, 256, 1, 128)

    @precondition(lambda self: 3 not in self._table and len(self._table) < 10)
    @rule()
    def begin_again(self) -> None:
        self._reopen()

    def _path(self, path: str, at: int = 0) -> int:
        data = path.encode()
        self._memory.data[at : at + len(data)] = data
        return len(data)

    @invariant()
    def the_table_is_bounded(self) -> None:
        assert len(self._table) <= self._limits.descriptors
        assert all(number >= 0 for number in self._table)

    @invariant()
    def the_quota_is_what_is_there(self) -> None:
        top = self._root.lookup("tmp")
        assert isinstance(top, Directory)
        assert top.quota is not None
        held: dict[int, Node] = {}
        names = _walk(top, held)
        for descriptor in self._table.values():
            node = getattr(descriptor, "_node", None)
            if node is not None and node.quota is top.quota:
                held[node.ino] = node
                # A directory that was removed while it was open has names of its own no more.
        used = names * _NODE_COST + sum(
            node.size() for node in held.values() if isinstance(node, File | Symlink)
        )
        assert top.quota.left == self._limits.tmp - used

    @invariant()
    def the_package_is_as_it_was(self) -> None:
        package = self._root.lookup("pkg")
        assert isinstance(package, Directory)
        file = package.lookup("x")
        assert isinstance(file, File)
        assert file.data == b"text"


def _walk(directory: Directory, held: dict[int, Node]) -> int:
    """How many names there are below, and what they stand for."""
    names = 0
    for node in directory._entries.values():
        names += 1
        held[node.ino] = node
        if isinstance(node, Directory):
            names += _walk(node, held)
    return names


def test_any_calls_in_any_order_leave_the_host_in_order() -> None:
    logging.disable()
    try:
        run_state_machine_as_test(
            Hostcalls,
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        logging.disable(logging.NOTSET)
