"""Bodies that have another size than their Content-Length: the error says which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from garrison.keep.component.callbacks import Failed
from garrison.keep.component.host import Host
from garrison.keep.component.http.wire import Sink
from garrison.keep.component.wasi import http_bodies as bodies
from garrison.keep.component.wasi import streams as io
from garrison.keep.component.wasi.http_fields import types_http_error_code
from garrison.keep.wasi.interrupts import Interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator

_KIND = "HTTP-request-body-size"
_SAID = 11


@pytest.fixture
def host() -> Iterator[Host]:
    with Interrupts(lambda: None) as interrupts:
        yield Host([], {}, [], [], None, interrupts, 8)


def _body(host: Host) -> tuple[bodies.OutgoingBody, bodies.BodyOutput]:
    body = bodies.OutgoingBody(Sink(_SAID), _KIND)
    output = bodies.outgoing_body_write(host, body)
    assert io.output_stream_check_write(host, output) > _SAID
    return body, output


def test_one_that_is_as_long_as_was_said_is_finished(host: Host) -> None:
    body, output = _body(host)
    io.output_stream_write(host, output, memoryview(b"long enough"))
    output.drop()
    bodies.outgoing_body_finish(host, body, None)
    assert body.sink.done


def test_too_little_is_told_at_the_end(host: Host) -> None:
    body, output = _body(host)
    io.output_stream_write(host, output, memoryview(b"msg"))
    output.drop()
    with pytest.raises(Failed) as caught:
        bodies.outgoing_body_finish(host, body, None)
    assert caught.value.value == (_KIND, 3)


def test_too_much_is_told_at_once_and_at_the_end(host: Host) -> None:
    body, output = _body(host)
    io.output_stream_write(host, output, memoryview(b"more "))
    with pytest.raises(Failed) as caught:
        io.output_stream_write(host, output, memoryview(b"than 11 bytes"))
    told: Any = caught.value.value
    case, error = told
    assert case == "last-operation-failed"
    assert types_http_error_code(host, error) == (_KIND, 18)
    output.drop()
    with pytest.raises(Failed) as caught:
        bodies.outgoing_body_finish(host, body, None)
    assert caught.value.value == (_KIND, 18)
    assert not body.sink.done
