"""What a workload may do with the identity of its keep, through `/key/identity` and `/attest`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from garrison.formats import cmw, jwk
from garrison.formats.evidence import workload_report_data
from garrison.keep.keyring import IDENTITY_PREFIX, Key
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography import x509

    from garrison.formats.identity import WorkloadIdentity
    from garrison.keep.identity import Credentials


class Bearer:
    """What a workload may do with the identity of its keep: show it, sign, and have evidence made.

    Args:
        credentials: the keep's key and attester.
        workload: what was certified.
        chain: the certificate chain as it is now, for it is renewed.
    """

    def __init__(
        self,
        credentials: Credentials,
        workload: WorkloadIdentity,
        chain: Callable[[], Sequence[x509.Certificate]],
    ) -> None:
        if workload.digest is None:
            raise RuntimeError("a workload has a digest")
        self._credentials = credentials
        self._digest = workload.digest
        self._chain = chain
        private = credentials.key
        algorithm = next(
            name for name, (_, curve, _) in jwk.CURVES.items() if isinstance(private.curve, curve)
        )
        self._key = Key(algorithm, private.public_key(), private, IDENTITY_PREFIX)

    def chain_pem(self) -> bytes:
        """The chain, leaf first, as PEM."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self._chain())

    def key(self) -> Key:
        """The key of the certificate, which signs only what begins with `IDENTITY_PREFIX`."""
        return self._key

    def report(self, data: bytes) -> bytes:
        """Evidence bound to `data` and to the workload (`workload_report_data`), a CMW record.

        Raises:
            Errno: there is no TEE.
            Unavailable: it does not answer.
        """
        evidence = self._credentials.attest(workload_report_data(self._digest, data))
        if evidence is None:
            raise Errno(errno.NOTSUP)
        return cmw.encode(evidence)
