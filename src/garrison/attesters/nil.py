"""No TEE: a keep for development, which no steward certifies without evidence."""

from __future__ import annotations

from typing import Literal

from garrison.formats.evidence import Tee


class NilAttester:
    """Has no evidence."""

    tee = Tee.NONE
    curve: Literal["P-256"] = "P-256"

    def attest(self, report_data: bytes) -> None:
        """Obtain nothing: there is no TEE to bind `report_data`."""
