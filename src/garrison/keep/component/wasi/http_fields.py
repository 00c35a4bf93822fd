"""Of wasi:http: fields, which are headers and trailers, and errors."""

from __future__ import annotations

from garrison.keep.component.callbacks import Failed
from garrison.keep.component.http.message import TOKEN, VALUE, Refused
from garrison.keep.component.wasi.streams import Error
from garrison.keep.engine.failures import Trap
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import NAMES, of_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from garrison.keep.component.host import Held, Host
    from garrison.keep.component.http.message import Headers

    # A case of `error-code`, and what it carries.
    Code = tuple[str, object]

# RFC 9110, section 7.6.1, and RFC 9112: what belongs to one connection, and so to the keep.
FORBIDDEN = frozenset(
    (
        "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade",
        "http2-settings", "host", "te", "trailer", "expect",
    )
)  # fmt: skip
# The keep's own fields, and those that a program takes for them because `_` becomes `-`, or the
# other way round, in what it runs on (CGI and its kind).
_RESERVED = "garrison-"
# What one message's fields may take of our memory, and how many there may be.
_MAX_BYTES = 1 << 20
_MAX_FIELDS = 1 << 12
# What a field costs us beside its bytes, about.
_FIELD_COST = 128


def shown(headers: Headers) -> Headers:
    """Fields of the other end, without what is the keep's to say."""
    return [
        (name, value)
        for name, value in headers
        if name not in FORBIDDEN and not name.replace("_", "-").startswith(_RESERVED)
    ]


class Parent:
    """Something whose children have to be dropped first."""

    def __init__(self) -> None:
        self.children = 0

    def check_childless(self, what: str) -> None:
        """Refuse to end it while it has children.

        Raises:
            Trap: it has.
        """
        if self.children:
            raise Trap(f"the guest failed: it ends {what} before what belongs to it")


class Fields:
    """Headers or trailers.

    Args:
        entries: names and values, in order.
        owner: what they belong to, which also makes them immutable.

    Attributes:
        held: what the component has of the keep's memory by them.
    """

    def __init__(self, entries: Headers, owner: Parent | None = None) -> None:
        self.entries = entries
        self.held: Held | None = None
        # Of the names and values, once it was asked for: one by one they are added often.
        self._size: int | None = None
        self._owner = owner
        if owner is not None:
            owner.children += 1

    def hold(self, host: Host) -> None:
        """Count what they take now.

        Raises:
            Trap: the component has too much of it.
        """
        # What they took before is given back first.
        self.held = None
        self.held = host.hold(self._counted() + _FIELD_COST * len(self.entries))

    def check_size(self) -> None:
        """Refuse more than one message may have.

        Raises:
            Trap: it is.
        """
        if self._counted() > _MAX_BYTES or len(self.entries) > _MAX_FIELDS:
            raise Trap("the guest failed: fields of too many bytes")

    def _counted(self) -> int:
        if self._size is None:
            self._size = sum([len(name) + len(value) for name, value in self.entries])
        return self._size

    def change(self) -> None:
        """Be changed.

        Raises:
            Failed: they are immutable.
        """
        if self._owner is not None:
            raise Failed(("immutable", None))

    def add(self, name: str, values: Sequence[memoryview]) -> None:
        """Append values.

        Raises:
            Failed: the name or a value is none, or the name is the keep's business.
            Trap: there are too many.
        """
        check_name(name)
        added = [(name, bytes(value)) for value in values]
        if not all(VALUE.fullmatch(value) for _, value in added):
            raise Failed(("invalid-syntax", None))
        self._size = self._counted() + sum([len(name) + len(value) for _, value in added])
        self.entries += added
        self.check_size()

    def remove(self, name: str) -> None:
        """Remove all values of a field."""
        name = name.lower()
        self.replace([entry for entry in self.entries if entry[0].lower() != name])

    def replace(self, entries: Headers) -> None:
        """Be `entries`."""
        self.entries, self._size = entries, None

    def taken(self) -> Headers:
        """What they are, for a message that they are given to: they are nobody else's then."""
        self.drop()
        return self.entries

    def drop(self) -> None:
        """End them."""
        if self._owner is not None:
            self._owner.children -= 1


def check_name(name: str) -> None:
    """Refuse what is no name, or the keep's business.

    Raises:
        Failed: it is.
    """
    if not TOKEN.fullmatch(name):
        raise Failed(("invalid-syntax", None))
    if name.lower() in FORBIDDEN:
        raise Failed(("forbidden", None))


def fields_new(_host: Host) -> Fields:
    """Make fields without any."""
    return Fields([])


def fields_from_list(host: Host, entries: list[tuple[str, memoryview]]) -> Fields:
    """Make fields of a list."""
    made = Fields([])
    if len(entries) > _MAX_FIELDS:
        raise Trap("the guest failed: fields of too many bytes")
    for name, value in entries:
        check_name(name)
        made.entries.append((name, bytes(value)))
    if not all(VALUE.fullmatch(value) for _, value in made.entries):
        raise Failed(("invalid-syntax", None))
    made.check_size()
    made.hold(host)
    return made


def fields_get(_host: Host, fields: Fields, name: str) -> list[bytes]:
    """Give all values of a field."""
    name = name.lower()
    return [value for found, value in fields.entries if found.lower() == name]


def fields_has(host: Host, fields: Fields, name: str) -> bool:
    """Whether a field is there."""
    return bool(fields_get(host, fields, name))


def fields_set(host: Host, fields: Fields, name: str, values: list[memoryview]) -> None:
    """Set a field's values."""
    fields.change()
    check_name(name)
    before = fields.entries
    fields.remove(name)
    try:
        fields.add(name, values)
    except Failed:
        fields.replace(before)
        raise
    fields.hold(host)


def fields_delete(host: Host, fields: Fields, name: str) -> None:
    """Remove a field."""
    fields.change()
    check_name(name)
    fields.remove(name)
    fields.hold(host)


def fields_append(host: Host, fields: Fields, name: str, value: memoryview) -> None:
    """Add a value to a field."""
    fields.change()
    fields.add(name, [value])
    fields.hold(host)


def fields_entries(_host: Host, fields: Fields) -> list[tuple[str, bytes]]:
    """Give all."""
    return fields.entries


def fields_clone(host: Host, fields: Fields) -> Fields:
    """Make a copy, which can be changed."""
    made = Fields(list(fields.entries))
    made.hold(host)
    return made


class HttpError(Error):
    """What an operation on a body failed with.

    Args:
        code: the `error-code`.
    """

    def __init__(self, code: Code) -> None:
        super().__init__(errno.IO)
        self.code = code


def failed(code: Code) -> Failed:
    """A stream's error that HTTP has a code for."""
    return Failed(("last-operation-failed", HttpError(code)))


def types_http_error_code(_host: Host, error: Error) -> Code | None:
    """Tell what a stream's error means for HTTP."""
    return error.code if isinstance(error, HttpError) else None


def code_of(error: BaseException) -> Code:
    """What an error of a connection means for HTTP."""
    if isinstance(error, Refused):
        if error.status == 431:
            return "HTTP-response-header-section-size", None
        return "HTTP-protocol-error", None
    if isinstance(error, TimeoutError):
        return "connection-read-timeout", None
    if isinstance(error, OSError):
        return _OS_CODES.get(NAMES[of_host(error)], ("connection-terminated", None))
    return "internal-error", str(error)


# By the names that preview 1 has for what goes wrong.
_OS_CODES: dict[str, Code] = {
    "CONNREFUSED": ("connection-refused", None),
    "TIMEDOUT": ("connection-timeout", None),
    "HOSTUNREACH": ("destination-unavailable", None),
    "NETUNREACH": ("destination-IP-unroutable", None),
    "MFILE": ("connection-limit-reached", None),
}
