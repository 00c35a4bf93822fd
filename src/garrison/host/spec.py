"""What a tenant asks of a host: a keep's launch request, and how to run it. One JSON document.

    {
      "launch": {...},                  see garrison.formats.launch_request
      "restart": "no" | "on-failure" | "always",
      "ports": [8443, ...],             which the workload listens on
      "memory_mib": 1024                of the keep's process, null for what the host gives
    }

Nothing in it is trusted by the keep, and nothing in it is secret.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from garrison.errors import Malformed
from garrison.formats.launch_request import MAX_SIZE, LaunchRequest

Restart = Literal["no", "on-failure", "always"]
RESTARTS: tuple[Restart, ...] = get_args(Restart)

_MAX_PORTS = 64
# A keep's process has 36 MiB before its workload has any.
LEAST_MEMORY = 64
_MOST_MEMORY = 1 << 24


@dataclass(frozen=True, slots=True)
class KeepSpec:
    """A keep that a tenant wants.

    Attributes:
        launch: what the keep is told.
        restart: whether it is started again when it ends: never, if it failed, or whenever
            nobody stopped it.
        ports: the TCP ports that the workload listens on.
        memory_mib: how much memory its process may have.
    """

    launch: LaunchRequest
    restart: Restart = "no"
    ports: tuple[int, ...] = ()
    memory_mib: int | None = None

    @classmethod
    def from_json(cls, data: bytes) -> KeepSpec:
        """Read the document.

        Raises:
            Malformed: it is not JSON, too long, or not exactly these fields.
        """
        if len(data) > MAX_SIZE:
            raise Malformed("too long", field="keep", expected=f"at most {MAX_SIZE} bytes")
        try:
            fields: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Malformed("not JSON", field="keep") from error
        expected = {"launch", "restart", "ports", "memory_mib"}
        if not isinstance(fields, dict) or fields.keys() != expected:
            raise Malformed("wrong fields", field="keep", expected=", ".join(sorted(expected)))
        if fields["restart"] not in RESTARTS:
            raise Malformed(
                "unknown",
                field="keep: restart",
                found=repr(fields["restart"])[:80],
                expected=", ".join(RESTARTS),
            )
        restart = next(known for known in RESTARTS if known == fields["restart"])
        return cls(
            launch=LaunchRequest.from_json(json.dumps(fields["launch"]).encode()),
            restart=restart,
            ports=_ports(fields["ports"]),
            memory_mib=_memory(fields["memory_mib"]),
        )

    def to_json(self) -> bytes:
        """Write the document."""
        return json.dumps(asdict(self)).encode()


def _ports(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _MAX_PORTS:
        raise Malformed("not a list", field="keep: ports", expected=f"at most {_MAX_PORTS} ports")
    for port in value:
        # JSON's true is an int for Python.
        if type(port) is not int or not 0 < port < 1 << 16:
            raise Malformed("not a port", field="keep: ports", found=repr(port)[:80])
    if len(set(value)) != len(value):
        raise Malformed("one twice", field="keep: ports", found=value)
    return tuple(value)


def _memory(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not LEAST_MEMORY <= value <= _MOST_MEMORY:
        raise Malformed(
            "not an amount of memory",
            field="keep: memory_mib",
            found=repr(value)[:80],
            expected=f"from {LEAST_MEMORY} to {_MOST_MEMORY} MiB",
        )
    return value
