"""Of wasi:http: requests and responses, those that come and those that go."""

from __future__ import annotations

import re

from garrison.errors import Malformed
from garrison.formats.endpoint import Endpoint
from garrison.keep.component.callbacks import Failed
from garrison.keep.component.http.message import TOKEN
from garrison.keep.component.http.wire import Sink
from garrison.keep.component.wasi.http_bodies import IncomingBody, OutgoingBody
from garrison.keep.component.wasi.http_fields import Fields, Parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from garrison.keep.component.host import Host
    from garrison.keep.component.http.message import Headers
    from garrison.keep.component.http.wire import Source
    from garrison.keep.component.wasi.http_fields import Code

    Case = tuple[str, Any]

    class Answering(Protocol):
        """Who waits for a response."""

        def respond(self, response: OutgoingResponse) -> None:
            """Send a response."""
            ...

        def fail(self, code: Code) -> None:
            """Send an error."""
            ...


_NAMED_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
)
# RFC 3986, appendix A: what a path and a query are made of; and what browsers leave as it is.
_PATH = re.compile(r"[!#-;=?-~]*", re.ASCII)
# RFC 3986, section 3.1.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_MAX_LENGTH_DIGITS = 18


def method_case(method: str) -> Case:
    """A method, as a case."""
    return (method.lower(), None) if method in _NAMED_METHODS else ("other", method)


class Incoming(Parent):
    """A message that came.

    Args:
        headers: its headers.
        source: its body.
    """

    def __init__(self, headers: Headers, source: Source, body: IncomingBody | None = None) -> None:
        super().__init__()
        self.headers = headers
        self._body: IncomingBody | None = body or IncomingBody(source)

    def take_body(self) -> IncomingBody:
        """Give its body, once.

        Raises:
            Failed: it was given before.
        """
        if self._body is None:
            raise Failed(None)
        body, self._body = self._body, None
        return body

    def drop(self) -> None:
        """End it."""
        self.check_childless("a message")
        if self._body is not None:
            self._body.drop()


class IncomingRequest(Incoming):
    """A request."""

    def __init__(
        self, method: str, target: str, scheme: str, authority: str | None, headers: Headers,
        source: Source,
    ) -> None:  # fmt: skip
        super().__init__(headers, source)
        self.method = method
        self.target = target
        self.scheme = scheme
        self.authority = authority


def incoming_request_method(_host: Host, request: IncomingRequest) -> Case:
    """Tell its method."""
    return method_case(request.method)


def incoming_request_path_with_query(_host: Host, request: IncomingRequest) -> str:
    """Tell what it is for."""
    return request.target


def incoming_request_scheme(_host: Host, request: IncomingRequest) -> Case:
    """Tell whether it came over TLS."""
    return request.scheme, None


def incoming_request_authority(_host: Host, request: IncomingRequest) -> str | None:
    """Tell whom it is for."""
    return request.authority


def incoming_request_headers(_host: Host, request: Incoming) -> Fields:
    """Give its headers."""
    return Fields(request.headers, request)


def incoming_request_consume(_host: Host, request: Incoming) -> IncomingBody:
    """Give its body, once."""
    return request.take_body()


class IncomingResponse(Incoming):
    """A response.

    Args:
        status: its status.
    """

    def __init__(self, status: int, headers: Headers, body: IncomingBody) -> None:
        super().__init__(headers, body.source, body)
        self.status = status


def incoming_response_status(_host: Host, response: IncomingResponse) -> int:
    """Tell its status."""
    return response.status


incoming_response_headers = incoming_request_headers
incoming_response_consume = incoming_request_consume


class Outgoing(Parent):
    """A message that goes.

    Attributes:
        headers: its headers.
        sink: its body, None if it was never asked for.
    """

    wrong_size = "HTTP-response-body-size"

    def __init__(self, headers: Fields) -> None:
        super().__init__()
        self.headers = headers.taken()
        self._held = headers.held
        self.sink: Sink | None = None

    def body(self) -> OutgoingBody:
        """Give its body, once.

        Raises:
            Failed: it was given before, or the headers say no one size of it.
        """
        if self.sink is not None:
            raise Failed(None)
        self.sink = Sink(self.length())
        return OutgoingBody(self.sink, self.wrong_size)

    def length(self) -> int | None:
        """How many bytes the headers say that the body has.

        Raises:
            Failed: they say more than one thing, or no number.
        """
        said = {value for name, value in self.headers if name.lower() == "content-length"}
        if not said:
            return None
        text = said.pop()
        if said or not text.isdigit() or len(text) > _MAX_LENGTH_DIGITS:
            raise Failed(None)
        return int(text)

    def drop(self) -> None:
        """End it."""
        self.check_childless("a message")


def outgoing_request_body(_host: Host, message: Outgoing) -> OutgoingBody:
    """Give its body, once."""
    return message.body()


def outgoing_request_headers(_host: Host, message: Outgoing) -> Fields:
    """Give its headers."""
    return Fields(message.headers, message)


class OutgoingResponse(Outgoing):
    """A response."""

    def __init__(self, headers: Fields) -> None:
        super().__init__(headers)
        self.status = 200


def outgoing_response_new(_host: Host, headers: Fields) -> OutgoingResponse:
    """Make one."""
    return OutgoingResponse(headers)


def outgoing_response_status_code(_host: Host, response: OutgoingResponse) -> int:
    """Tell its status."""
    return response.status


def outgoing_response_set_status_code(_host: Host, response: OutgoingResponse, status: int) -> None:
    """Set its status: a final one."""
    if not 200 <= status <= 599:
        raise Failed(None)
    response.status = status


outgoing_response_headers = outgoing_request_headers
outgoing_response_body = outgoing_request_body


class ResponseOutparam:
    """Where a response goes."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering

    def drop(self) -> None:
        """End it: there will be no response."""


def response_outparam_set(_host: Host, param: ResponseOutparam, response: tuple[str, Any]) -> None:
    """Answer."""
    kind, value = response
    if kind == "err":
        param.answering.fail(value)
        return
    value.check_childless("a response")
    param.answering.respond(value)


class OutgoingRequest(Outgoing):
    """A request."""

    wrong_size = "HTTP-request-body-size"

    def __init__(self, headers: Fields) -> None:
        super().__init__(headers)
        self.method = "GET"
        self.target: str | None = None
        self.scheme: Case | None = None
        self.authority: str | None = None


def outgoing_request_new(_host: Host, headers: Fields) -> OutgoingRequest:
    """Make one."""
    return OutgoingRequest(headers)


def outgoing_request_method(_host: Host, request: OutgoingRequest) -> Case:
    """Tell its method."""
    return method_case(request.method)


def outgoing_request_set_method(_host: Host, request: OutgoingRequest, method: Case) -> None:
    """Set its method."""
    kind, other = method
    if kind == "other" and not TOKEN.fullmatch(other):
        raise Failed(None)
    request.method = other if kind == "other" else kind.upper()


def outgoing_request_path_with_query(_host: Host, request: OutgoingRequest) -> str | None:
    """Tell what it is for."""
    return request.target


def outgoing_request_set_path_with_query(
    _host: Host, request: OutgoingRequest, target: str | None
) -> None:
    """Set what it is for."""
    if target is not None and not _PATH.fullmatch(target):
        raise Failed(None)
    request.target = target


def outgoing_request_scheme(_host: Host, request: OutgoingRequest) -> Case | None:
    """Tell its scheme."""
    return request.scheme


def outgoing_request_set_scheme(_host: Host, request: OutgoingRequest, scheme: Case | None) -> None:
    """Set its scheme."""
    if scheme is not None and scheme[0] == "other" and not _SCHEME.fullmatch(scheme[1]):
        raise Failed(None)
    request.scheme = scheme


def outgoing_request_authority(_host: Host, request: OutgoingRequest) -> str | None:
    """Tell whom it is for."""
    return request.authority


def outgoing_request_set_authority(
    _host: Host, request: OutgoingRequest, authority: str | None
) -> None:
    """Set whom it is for: a host, and perhaps a port."""
    if authority is not None:
        try:
            Endpoint.parse(authority, field="authority")
        except Malformed:
            raise Failed(None) from None
    request.authority = authority


class RequestOptions:
    """How long things may take, in nanoseconds; None for as long as the keep says."""

    def __init__(self) -> None:
        self.connect: int | None = None
        self.first_byte: int | None = None
        self.between_bytes: int | None = None

    def drop(self) -> None:
        """End them."""


def request_options_new(_host: Host) -> RequestOptions:
    """Make options that say nothing."""
    return RequestOptions()


def request_options_connect_timeout(_host: Host, options: RequestOptions) -> int | None:
    """Tell how long connecting may take."""
    return options.connect


def request_options_set_connect_timeout(
    _host: Host, options: RequestOptions, duration: int | None
) -> None:
    """Set how long connecting may take."""
    options.connect = duration


def request_options_first_byte_timeout(_host: Host, options: RequestOptions) -> int | None:
    """Tell how long the response may take."""
    return options.first_byte


def request_options_set_first_byte_timeout(
    _host: Host, options: RequestOptions, duration: int | None
) -> None:
    """Set how long the response may take."""
    options.first_byte = duration


def request_options_between_bytes_timeout(_host: Host, options: RequestOptions) -> int | None:
    """Tell how long may be between bytes of the response's body."""
    return options.between_bytes


def request_options_set_between_bytes_timeout(
    _host: Host, options: RequestOptions, duration: int | None
) -> None:
    """Set how long may be between bytes of the response's body."""
    options.between_bytes = duration
