"""What every attester is: code inside a TEE that obtains evidence from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from garrison.formats.evidence import Evidence, Tee


class Attester(Protocol):
    """Obtains evidence of the TEE it runs in."""

    @property
    def tee(self) -> Tee:
        """The kind of TEE."""

    @property
    def curve(self) -> Literal["P-256", "P-384"]:
        """The curve for keys that are to be attested: as strong as the TEE's own signature."""

    def attest(self, report_data: bytes) -> Evidence | None:
        """Obtain evidence that is bound to `report_data`.

        Args:
            report_data: 64 bytes.

        Returns:
            The evidence; None where there is none to be had, outside of any TEE.

        Raises:
            Unavailable: the TEE does not answer.
        """
