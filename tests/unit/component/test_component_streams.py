"""A component's streams: what one gives goes to another as it came, and is gone once dropped."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any, cast

import pytest

from garrison.keep.component.host import Host
from garrison.keep.component.wasi.streams import (
    InputStream,
    OutputStream,
    Shared,
    output_stream_splice,
)
from garrison.keep.vfs.descriptor import Descriptor

if TYPE_CHECKING:
    from garrison.keep.vfs.descriptor import Room


class _Source(Descriptor):
    """Has so much to say, at once."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data

    def read(self, view: memoryview) -> int:
        view[: len(self._data)] = self._data
        return len(self._data)


class _Slow(Descriptor):
    """Takes as many bytes as it is told at each call, where None is nothing yet, and then all.

    So does a plain connection with little room left: a part, and nothing more until it is read.
    """

    def __init__(self, counts: list[int | None]) -> None:
        super().__init__()
        self._counts = counts
        self.taken = b""

    def write(self, view: memoryview) -> int:
        count = self._counts.pop(0) if self._counts else len(view)
        if count is None:
            raise BlockingIOError
        self.taken += view[:count]
        return min(count, len(view))

    def write_at(self, memory: Room, start: int, end: int) -> int:
        return self.write(memory.all[start:end])


@pytest.mark.parametrize("size", [10, 1024, 1500, 4000])
@pytest.mark.parametrize(
    "counts", [[2], [2, None], [None], [2, 3, None], [700, None], [2, None, 1]]
)
def test_what_is_not_taken_at_once_stays_as_it_came(size: int, counts: list[int | None]) -> None:
    data = bytes(number % 251 for number in range(size))
    host = Host([], {}, [], [], None, cast("Any", None), 1)
    slow = _Slow(list(counts))
    output = OutputStream(host, Shared(slow))
    assert output.permit() >= size
    assert output_stream_splice(host, output, InputStream(Shared(_Source(data))), size) == size
    while output.push():
        pass
    assert slow.taken == data


def test_what_is_dropped_needs_no_collector() -> None:
    """Most of a connection is the TLS library's memory, which no collector of cycles counts."""
    host = Host([], {}, [], [], None, cast("Any", None), 1)
    shared = Shared(_Slow([]))
    seen = weakref.ref(shared.descriptor)
    streams = OutputStream(host, shared), InputStream(shared)
    gc.disable()
    try:
        for stream in streams:
            stream.drop()
        del streams, stream, shared
        assert seen() is None
    finally:
        gc.enable()
