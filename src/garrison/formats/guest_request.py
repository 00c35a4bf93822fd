"""What a host asks of the keep in a virtual machine: a JSON document on its channel of control.

It holds a launch request, or what to run of the files that came before; and the few things that a
process would find on the machine that it runs on. Like all that the host says it is not believed:
it can name other hosts for the keep's peers, and then TLS fails; it can ask for another log level.
"""

from __future__ import annotations

import json
from types import MappingProxyType

from garrison.errors import Malformed
from garrison.formats.channel import MAX_REQUEST
from garrison.formats.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from garrison.formats.launch_request import LaunchRequest

_WHAT = "guest request"
_KEYS = {"launch", "local", "hosts", "log"}
_LOCAL_KEYS = {"arguments", "roots", "steward", "attester", "limits"}
_LOCAL_EXPECTED = ", ".join(sorted(_LOCAL_KEYS))
LOG_LEVELS = ("debug", "info", "warning", "error")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
# A file of hosts, not a directory of the world.
_MAX_HOSTS = 64
# RFC 1123, 2.1: letters, digits, hyphens, dots, at most 253 characters.
_HOST = r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"
# Linux, MAX_ARG_STRINGS is far above; a person's command line is far below.
_MAX_ARGUMENTS = 4096


class Local(Record):
    """A local workload, of which the files came before. For development only.

    Attributes:
        arguments: of the workload.
        roots: PEM, the roots that its peers are verified under; may be empty.
        steward: who certifies it, by its digest alone; None: it has no identity.
        attester: which attester to use then; see `LaunchRequest`.
        limits: by name, what it may take in place of what its configuration says.
    """

    arguments: tuple[str, ...] = ()
    roots: str = ""
    steward: str | None = None
    attester: Mapping[str, str] = _NOTHING
    limits: Mapping[str, int] = _NOTHING


class GuestRequest(Record):
    """What to run, and what the machine is to know.

    Attributes:
        what: a published workload, or a local one.
        hosts: addresses by name, before any name server is asked.
        log: how much the keep logs.
    """

    what: LaunchRequest | Local
    hosts: Mapping[str, str] = _NOTHING
    log: str = "info"

    @classmethod
    def from_json(cls, data: bytes) -> GuestRequest:
        """Read the document.

        Raises:
            Malformed: it is not JSON, too long, or not exactly these fields.
        """
        if len(data) > MAX_REQUEST:
            raise Malformed("too long", field=_WHAT, expected=f"at most {MAX_REQUEST} bytes")
        try:
            read: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Malformed("not JSON", field=_WHAT) from error
        if not isinstance(read, dict) or read.keys() != _KEYS:
            raise Malformed("wrong fields", field=_WHAT, expected=", ".join(sorted(_KEYS)))
        if (read["launch"] is None) == (read["local"] is None):
            raise Malformed("one of them", field=f"{_WHAT}: launch, local")
        if read["log"] not in LOG_LEVELS:
            raise Malformed(
                "no such level",
                field=f"{_WHAT}: log",
                found=repr(read["log"])[:40],
                expected=", ".join(LOG_LEVELS),
            )
        what: LaunchRequest | Local
        if read["launch"] is not None:
            from garrison.formats.launch_request import LaunchRequest  # late: see `Record`

            what = LaunchRequest.from_json(json.dumps(read["launch"]).encode())
        else:
            what = _local(read["local"])
        return cls(what, _hosts(read["hosts"]), read["log"])

    def to_json(self) -> bytes:
        """Write the document."""
        launch = local = None
        if isinstance(self.what, Local):
            local = {name: getattr(self.what, name) for name in _LOCAL_KEYS}
        else:
            launch = json.loads(self.what.to_json())
        document = {"launch": launch, "local": local, "hosts": self.hosts, "log": self.log}
        return json.dumps(document, default=dict).encode()


def _local(read: Any) -> Local:
    if not isinstance(read, dict) or read.keys() != _LOCAL_KEYS:
        raise Malformed("wrong fields", field=f"{_WHAT}: local", expected=_LOCAL_EXPECTED)
    match read:
        case {
            "arguments": list(arguments),
            "roots": str(roots),
            "steward": str() | None as steward,
            "attester": dict(attester),
            "limits": dict(limits),
        } if (
            len(arguments) <= _MAX_ARGUMENTS
            and all(isinstance(each, str) for each in (*arguments, *attester.values()))
            and all(type(each) is int for each in limits.values())
        ):
            return Local(tuple(arguments), roots, steward, attester, limits)
    raise Malformed(
        "wrong types",
        field=f"{_WHAT}: local",
        expected="arguments and attester of text, limits of whole numbers",
    )


def _hosts(read: Any) -> dict[str, str]:
    if not isinstance(read, dict) or len(read) > _MAX_HOSTS:
        raise Malformed(
            "not addresses by name", field=f"{_WHAT}: hosts", expected=f"at most {_MAX_HOSTS}"
        )
    if not read:
        return {}
    import ipaddress  # late, as what compiles expressions works: most machines are told no names
    import re

    for name, address in read.items():
        if not re.fullmatch(_HOST, name):
            raise Malformed("not a host's name", field=f"{_WHAT}: hosts", found=repr(name)[:300])
        try:
            # Not a number, which would be an address too.
            ipaddress.IPv4Address(str(address))
        except ValueError as error:
            raise Malformed(
                "not an IPv4 address",
                field=f"{_WHAT}: hosts: {name}",
                found=repr(address)[:60],
            ) from error
    return read
