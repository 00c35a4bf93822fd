"""`[limits]`: how much of its keep a workload may take.

The same table stands in `Enarx.toml`, where the workload says what it needs, and in a tenant's
deployment policy, which may only narrow: of two values the lower one holds, and a value here that
is not given there is the default there. `docs/reference/enarx-toml.md` explains each.

A value is a whole number or, as text, one with a unit: `"64MiB"`.

Refused: names that nobody knows, and values out of a limit's range.
"""

# It stands on the path of every start: no imports but these, and no dataclass.
from garrison.errors import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.formats.strict_toml import Table

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# No value of any limit is longer; a longer one is not even made a number of.
_MAX_DIGITS = 16

# Name: the default (None for no limit), the least and the most that can be set.
LIMITS: "dict[str, tuple[int | None, int, int]]" = {
    # Bytes of linear memory: what 32 bits can name; one page at least.
    "memory": (1 << 32, 1 << 16, 1 << 32),
    # Elements of a table: the largest modules have some ten thousand functions in one.
    "table_elements": (1 << 20, 1, 10_000_000),
    # Bytes of stack for the guest's calls, of the 8 MiB that a thread has.
    "stack": (1 << 20, 1 << 16, 4 << 20),
    # Seconds that it may run.
    "run_seconds": (None, 1, 10 * 366 * 86400),
    # Open descriptors.
    "descriptors": (4096, 1, 1 << 16),
    # Open connections, those included whose handshake is under way.
    "connections": (4096, 0, 1 << 16),
    # Handshakes under way, of one listener.
    "handshakes": (256, 1, 1 << 14),
    # Seconds to reach a host, and to finish a TLS handshake.
    "connect_seconds": (10, 1, 3600),
    "handshake_seconds": (10, 1, 3600),
    # Seconds that the keep may go without its steward's word on what is denied.
    "silence_seconds": (None, 10, 86400),
    # Keys of its own and of others that it trusts.
    "keys": (1024, 0, 1 << 16),
    # Of a component that serves HTTP: requests under way, and those that wait for one to end.
    "http_requests": (64, 1, 1024),
    "http_queue": (1024, 1, 1 << 16),
    # Seconds that a request may take, and that a connection may stay without one.
    "http_seconds": (60, 1, 10 * 366 * 86400),
    "http_idle_seconds": (60, 1, 86400),
    # Bytes of a request's head, and of its trailers.
    "http_head": (64 << 10, 1 << 10, 1 << 20),
    # Requests that one instance of the component answers before a new one takes its place.
    "http_instance_requests": (1, 1, 1 << 30),
    # Bytes of what is below /tmp, and of that and the package together.
    "tmp": (256 << 20, 0, 1 << 36),
    "files": (1 << 30, 0, 1 << 36),
}
DEFAULTS: "dict[str, int | None]" = {name: default for name, (default, _, _) in LIMITS.items()}


class Limits:
    """How much of a keep one guest may take; the attributes have the names of `LIMITS`."""

    __slots__ = tuple(LIMITS)

    memory: int
    table_elements: int
    stack: int
    run_seconds: int | None
    descriptors: int
    connections: int
    handshakes: int
    connect_seconds: float
    handshake_seconds: float
    silence_seconds: float | None
    keys: int
    http_requests: int
    http_queue: int
    http_seconds: int
    http_idle_seconds: int
    http_head: int
    http_instance_requests: int
    tmp: int
    files: int

    def __init__(self, **given: float) -> None:
        """Take the defaults, but for what is `given`."""
        for name, value in {**DEFAULTS, **given}.items():
            setattr(self, name, value)

    @classmethod
    def narrowed(cls, given: "Mapping[str, int]", tenant: "Mapping[str, int]") -> "Limits":
        """What holds where the workload asks for `given` and the tenant allows `tenant`."""
        values = dict(given)
        for name, most in tenant.items():
            ours = values.get(name, DEFAULTS[name])
            values[name] = most if ours is None else min(ours, most)
        return cls(**values)

    def as_dict(self) -> "dict[str, int | None]":
        """Each limit's value by its name."""
        return {name: getattr(self, name) for name in LIMITS}


def read_limits(table: "Table") -> dict[str, int]:
    """Read a `[limits]` table: the limits that it sets.

    Raises:
        Malformed: it names what is no limit, or sets one out of its range.
    """
    given = {}
    for name in LIMITS:
        value = table.value(name)
        if value is not None:
            given[name] = _checked(name, value, table.where(name))
    table.done()
    return given


def parse_limit(text: str, *, field: str) -> tuple[str, int]:
    """Read `name=value`, as command lines give it.

    Raises:
        Malformed: it has another form, names what is no limit, or sets it out of its range.
    """
    name, separator, value = text.partition("=")
    if not separator or name not in LIMITS:
        raise Malformed(
            "not a limit",
            field=field,
            found=repr(text[:100]),
            expected=f"name=value, of {', '.join(LIMITS)}",
        )
    return name, _checked(name, value, f"{field} {name}")


def _checked(name: str, value: object, field: str) -> int:
    _, low, high = LIMITS[name]
    number = value if type(value) is int else _number(value) if isinstance(value, str) else None
    if number is None:
        raise Malformed(
            "not an amount",
            field=field,
            found=repr(value)[:100],
            expected=f"a whole number, or one with {', '.join(_UNITS)}",
        )
    if not low <= number <= high:
        raise Malformed("out of range", field=field, found=number, expected=f"{low} to {high}")
    return number


def _number(text: str) -> int | None:
    digits, unit = text, 1
    for suffix, size in _UNITS.items():
        if text.endswith(suffix):
            digits, unit = text.removesuffix(suffix).rstrip(" "), size
    if not digits.isascii() or not digits.isdigit() or len(digits) > _MAX_DIGITS:
        return None
    return int(digits) * unit
