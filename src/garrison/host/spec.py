"""What a tenant asks of a host: a keep's launch request, and how to run it. One JSON document.

    {
      "launch": {...},                  see garrison.formats.launch_request
      "backend": "nil" | "cvm" | "kvm" | "snp" | "tdx",
      "restart": "no" | "on-failure" | "always",
      "ports": [8443, ...],             which the workload listens on
      "memory_mib": 1024                of its process or machine, null for what the host gives
    }

Nothing in it is trusted by the keep, and nothing in it is secret.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar, get_args

from garrison.errors import Malformed
from garrison.formats.launch_request import MAX_SIZE, LaunchRequest

W = TypeVar("W", bound=str)
Restart = Literal["no", "on-failure", "always"]
RESTARTS: tuple[Restart, ...] = get_args(Restart)
Backend = Literal["nil", "cvm", "kvm", "snp", "tdx"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
#: Of these, what is a machine of its own.
MACHINES: tuple[Backend, ...] = ("kvm", "snp", "tdx")
#: What stands on the command line of `garrison.host.machine` for memory that nobody named.
NO_MEMORY = "-"

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
        memory_mib: how much memory its process may have, or its machine has.
        backend: where it runs.
    """

    launch: LaunchRequest
    restart: Restart = "no"
    ports: tuple[int, ...] = ()
    memory_mib: int | None = None
    backend: Backend = "nil"

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
        expected = {"launch", "backend", "restart", "ports", "memory_mib"}
        if not isinstance(fields, dict) or fields.keys() != expected:
            raise Malformed("wrong fields", field="keep", expected=", ".join(sorted(expected)))
        return cls(
            launch=LaunchRequest.from_json(json.dumps(fields["launch"]).encode()),
            backend=_one_of(BACKENDS, fields, "backend"),
            restart=_one_of(RESTARTS, fields, "restart"),
            ports=_ports(fields["ports"]),
            memory_mib=_memory(fields["memory_mib"]),
        )

    def to_json(self) -> bytes:
        """Write the document."""
        return json.dumps(asdict(self)).encode()


def _one_of(known: tuple[W, ...], fields: dict[str, Any], name: str) -> W:
    for word in known:
        if word == fields[name]:
            return word
    raise Malformed(
        "unknown",
        field=f"keep: {name}",
        found=repr(fields[name])[:80],
        expected=", ".join(known),
    )


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
