"""What a host asks of a keep: a JSON document, handed over when the keep starts.

The host is not trusted, so nothing in it is believed: a wrong steward issues certificates
that no peer accepts, a wrong slug or root shows in the certificate, and a wrong attester has
no evidence. It holds no secret.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from garrison.errors import Malformed
from garrison.formats.oci_name import parse_name

# Far above any bundle of roots, far below what hurts.
MAX_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """Which workload to run, and who vouches for the keep.

    Attributes:
        slug: the workload, as text.
        steward: URL of the steward, None to let the package name it.
        steward_roots: PEM, the roots of the stewards whose certificates count; also trusted
            for the TLS of the steward's own endpoint.
        registry_ca: PEM, trusted for the drawbridge's TLS; None means the web's roots.
        attester: which attester to use (`kind`) and its settings.
        policy: the tenant's policy (`garrison.formats.deployment_policy`), None if there is none.
            That it reached the keep shows in the keep's certificate.
        allow_yanked: whether to run a workload though its tag was yanked.
    """

    slug: str
    steward: str | None
    steward_roots: str
    registry_ca: str | None
    attester: dict[str, str]
    policy: str | None = None
    allow_yanked: bool = False

    def __post_init__(self) -> None:
        parse_name(self.slug)

    @classmethod
    def from_json(cls, data: bytes) -> LaunchRequest:
        """Read the document.

        Raises:
            Malformed: it is not JSON, too long, or not exactly these fields.
        """
        if len(data) > MAX_SIZE:
            raise Malformed("too long", field="launch request", expected=f"at most {MAX_SIZE}")
        try:
            fields: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Malformed("not JSON", field="launch request") from error
        kinds: dict[str, tuple[type, ...]] = {
            "slug": (str,),
            "steward": (str, type(None)),
            "steward_roots": (str,),
            "registry_ca": (str, type(None)),
            "attester": (dict,),
            "policy": (str, type(None)),
            "allow_yanked": (bool,),
        }
        if not isinstance(fields, dict) or fields.keys() != kinds.keys():
            raise Malformed("wrong fields", field="launch request", expected=", ".join(kinds))
        for name, kind in kinds.items():
            if not isinstance(fields[name], kind):
                raise Malformed("wrong type", field=f"launch request: {name}")
        if not all(isinstance(value, str) for value in fields["attester"].values()):
            raise Malformed("wrong type", field="launch request: attester", expected="strings")
        return cls(**fields)

    def to_json(self) -> bytes:
        """Write the document."""
        return json.dumps(asdict(self)).encode()
