"""The reader of HTTP messages: the same whatever the pieces, and only refusals for garbage."""

from __future__ import annotations

import contextlib

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.keep.component.http.message import (
    End,
    Head,
    Reader,
    Refused,
    ResponseReader,
    chunk,
    last_chunk,
    response_head,
)

_LIMIT = 4096
_NAMES = st.sampled_from(["x", "X-Y", "cookie", "Accept"])
_VALUES = st.text('abc \t;=,"%é', max_size=12).map(lambda text: text.strip().encode("latin-1"))
_DAMAGE = st.sampled_from(
    [b"", b"\r", b"\n", b" ", b":", b"0", b"\x0b", b"chunked", b"Content-Length: 1\r\n"]
)
_BODIES = st.lists(st.binary(max_size=40), max_size=4)


@st.composite
def _messages(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A request, and its body."""
    fields = [f"{n}: ".encode() + v for n, v in draw(st.lists(st.tuples(_NAMES, _VALUES)))]
    parts = draw(_BODIES)
    body = b"".join(parts)
    if draw(st.booleans()):
        fields.append(b"Content-Length: %d" % len(body))
        sent = body
    else:
        fields.append(b"Transfer-Encoding: chunked")
        sent = b"".join(chunk(part) for part in parts if part) + last_chunk([("x", b"y")])
    head = b"\r\n".join([b"POST /a?b HTTP/1.1", b"Host: a", *fields])
    return head + b"\r\n\r\n" + sent, body


def _read(reader: Reader, pieces: list[bytes]) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for piece in pieces:
        reader.feed(piece)
        while reader.events:
            event = reader.events.popleft()
            if isinstance(event, Head):
                found.append((event.method, event.target, event.headers, b""))
            elif isinstance(event, End):
                found[-1] += (event.trailers,)
            else:
                *known, body = found[-1]
                found[-1] = (*known, body + event)  # type: ignore[operator]  # (bytes, both)
    return found


@given(st.lists(_messages(), min_size=1, max_size=3), st.data())
def test_messages_are_the_same_in_whatever_pieces_they_come(
    messages: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    whole = b"".join(message for message, _ in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    found = _read(Reader(_LIMIT), [whole])
    assert found == _read(Reader(_LIMIT), [piece for piece in pieces if piece])
    assert found == _read(Reader(_LIMIT), [bytes([byte]) for byte in whole])
    assert [message[3] for message in found] == [body for _, body in messages]


def _next(other: h11.Connection) -> object:
    """What comes next; None for empty lines, which others pass over (RFC 9112, section 2.2)."""
    try:
        return other.next_event()
    except h11.RemoteProtocolError as error:
        if str(error) == "no request line received":
            return None
        raise


@given(st.lists(_messages(), min_size=1, max_size=2), st.data())
def test_what_is_accepted_another_reader_understands_alike(
    messages: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    whole = bytearray(b"".join(message for message, _ in messages))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + 1] = data.draw(_DAMAGE)
        if not whole:
            return
    try:
        ours = _read(Reader(_LIMIT), [bytes(whole)])
    except Refused:
        return
    other = h11.Connection(h11.SERVER)
    other.receive_data(bytes(whole))
    for message in ours:
        if len(message) < 5:
            return  # it is not complete
        body = b""
        while not isinstance(event := _next(other), h11.EndOfMessage):
            if event is None:
                return
            assert event not in (h11.NEED_DATA, h11.PAUSED), (event, message)
            if isinstance(event, h11.Request):
                assert (event.method, event.target) == message[:2]
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        assert body == message[3]
        if other.our_state is not h11.SEND_RESPONSE:
            return
        other.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        other.send(h11.EndOfMessage())
        done: object = other.our_state
        if done is not h11.DONE:
            return
        other.start_next_cycle()


@pytest.mark.parametrize("kind", [Reader, ResponseReader])
@given(pieces=st.lists(st.binary(min_size=1, max_size=200), max_size=8))
def test_garbage_is_refused_and_nothing_else(kind: type[Reader], pieces: list[bytes]) -> None:
    reader = kind(_LIMIT)
    with contextlib.suppress(Refused):
        for piece in pieces:
            reader.feed(piece)


@given(st.binary(max_size=300))
def test_responses_with_garbage_behind_their_start_are_refused_or_read(rest: bytes) -> None:
    reader = ResponseReader(_LIMIT)
    with contextlib.suppress(Refused):
        reader.feed(response_head(200, [("x", b"y")])[:-2] + rest)
        assert all(isinstance(event, Head | bytes | End) for event in reader.events)


def test_messages_that_come_at_once_are_bounded() -> None:
    """The smallest cost us twenty times what they cost who sends them."""
    request = b"GET / HTTP/1.1\r\nHost:a\r\n\r\n"
    for _ in range(2):
        reader = Reader(_LIMIT)
        reader.feed(request * 128)
        assert len(reader.events) == 2 * 128
        reader.events.clear()
        reader.feed(request * 128)
        assert len(reader.events) == 2 * 128
    reader = Reader(_LIMIT)
    with pytest.raises(Refused, match="too many messages at once"):
        reader.feed(request * 2500)
    # What came first is there all the same.
    assert len(reader.events) == 2 * 128
    assert isinstance(reader.events[-1], End)
