"""The one place that a steward asks for endorsements.

    [endorsements]
    cache = "endorsements-cache"        # a directory of the steward's own, relative to the policy
    fetch = true                        # absent: nothing is ever fetched
    kds = "https://kds.example.com"     # a mirror of AMD's KDS; absent: AMD
    pccs = "https://pccs.example.com"   # an Intel PCCS; absent: Intel
    ca = "mirror-ca.pem"                # who vouches for these servers; absent: the web's roots

For SNP the order is: directories that the policy names, then what came with the evidence, then
cache and vendor. The revocation list is the exception: a host that chooses which list is looked
at could choose one from before it was caught, so the latest of all that can be had is taken.

Nothing is judged here, and nothing fetched is trusted more than the rest.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.serialization import Encoding

from garrison.endorsements import kds, pcs
from garrison.endorsements.cache import Cache
from garrison.endorsements.fetch import LOGGER, Fetcher, Servers
from garrison.endorsements.resource import read_chain
from garrison.endorsements.store import SnpEndorsementStore
from garrison.endorsements.supply import Supply
from garrison.errors import Malformed, Misuse, Unavailable
from garrison.formats.dcap_bundle import MAX_BUNDLE, read_bundle
from garrison.formats.dcap_collateral import DcapCollateral
from garrison.formats.snp import Report, SigningKey
from garrison.formats.snp_certificate import VekCertificate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from garrison.formats.snp import Product
    from garrison.formats.snp_evidence import SnpEndorsements, SnpEvidence
    from garrison.formats.strict_toml import Table

# A bundle of the web's roots is the largest that is read here.
_MAX_CA = 1 << 20
_RENEWAL_SECONDS = 600.0
# In the directory of a simulated Intel (`garrison.attesters.simulated_dcap_insecure`).
_COLLATERAL = "collateral.json"


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Settings:
    """The `[endorsements]` section.

    Attributes:
        cache: the directory of fetched and imported documents; None: there is none.
        fetch: whether anything may be fetched.
        servers: where from.
    """

    cache: Path | None = None
    fetch: bool = False
    servers: Servers = field(default_factory=lambda: Servers({}))

    @classmethod
    def from_table(cls, table: Table, base: Path) -> Settings:
        """Read the section; paths are relative to `base`.

        Raises:
            Malformed: it is anything else than shown above.
            Misuse: the file of certificate authorities cannot be read.
        """
        cache = table.optional_string("cache")
        fetch = table.boolean("fetch", False)  # noqa: FBT003 - the default of a key
        mirrors = {key: table.optional_string(key) for key in ("kds", "pccs")}
        ca = table.optional_string("ca")
        if fetch and cache is None:
            raise table.malformed("cache", "fetching needs a cache", expected="a directory")
        for key, url in mirrors.items():
            if url is not None and not _is_origin(url):
                raise table.malformed(key, "not a server", expected="https://host[:port][/path]")
        table.done()
        return cls(
            None if cache is None else base / cache,
            fetch,
            servers(mirrors["kds"], mirrors["pccs"], None if ca is None else base / ca),
        )


def servers(kds_mirror: str | None, pccs: str | None, ca: Path | None) -> Servers:
    """Where to fetch from.

    Args:
        kds_mirror: a mirror of AMD's KDS; None: AMD.
        pccs: an Intel PCCS; None: Intel.
        ca: a file with the certificate authorities of both; None: the web's.

    Raises:
        Misuse: a mirror is not an HTTPS server, or `ca` cannot be read.
    """
    mirrors: dict[str, str] = {}
    for name, url in (("KDS mirror", kds_mirror), ("PCCS", pccs)):
        if url is not None and not _is_origin(url):
            raise Misuse(
                "not a server", field=name, found=url, expected="https://host[:port][/path]"
            )
    if kds_mirror is not None:
        mirrors[kds.ORIGIN] = kds_mirror
    if pccs is not None:
        mirrors |= pcs.mirrors(pccs)
    return Servers(mirrors, None if ca is None else _read_ca(ca))


def _is_origin(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_is_good = parts.port != 0
    except ValueError:
        return False
    return (
        parts.scheme == "https"
        and bool(parts.hostname)
        and port_is_good
        and not parts.username
        and not parts.query
        and not parts.fragment
        and not url.endswith("/")
    )


def simulated_collateral(directory: Path) -> DcapCollateral:
    """The collateral of a simulated Intel, from its directory.

    Raises:
        Misuse: it cannot be read.
        Malformed: it is none.
    """
    return read_bundle(_read(directory / _COLLATERAL, MAX_BUNDLE))


def _read(path: Path, limit: int) -> bytes:
    """Read a file, and no more than one byte above the limit."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error


def _read_ca(path: Path) -> str:
    data = _read(path, _MAX_CA)
    if len(data) > _MAX_CA or not data.isascii():
        raise Malformed("not PEM of certificates", field=str(path))
    return data.decode("ascii")


class EndorsementSource:
    """Directories, cache and vendors; one object for all threads of a steward."""

    def __init__(
        self,
        settings: Settings,
        snp_directories: Sequence[Path] = (),
        clock: Callable[[], datetime] = utc_now,
        *,
        insecure_simulated: Mapping[pcs.IntelTee, Mapping[str, Path]] | None = None,
    ) -> None:
        """Open directories and cache; nothing is fetched yet.

        Args:
            settings: cache and servers.
            snp_directories: see `garrison.endorsements.store`.
            clock: tells the time.
            insecure_simulated: the directories of simulated Intels, by the name of the root.

        Raises:
            Misuse: a directory cannot be used.
            Malformed: a file is not what its name says.
        """
        self._store = SnpEndorsementStore.load(snp_directories)
        self._clock = clock
        self._fetches = settings.fetch
        self._simulated = {
            (tee, name): simulated_collateral(directory)
            for tee, directories in (insecure_simulated or {}).items()
            for name, directory in directories.items()
        }
        self._supply: Supply | None = None
        if settings.cache is not None:
            cache = Cache(settings.cache)
            fetcher = Fetcher(settings.servers, cache, clock) if settings.fetch else None
            self._supply = Supply(cache, fetcher, clock)

    def for_snp(self, evidence: SnpEvidence, crls: Sequence[bytes] = ()) -> SnpEndorsements:
        """What verifies `evidence`.

        Args:
            evidence: the report, and the certificates that came with it.
            crls: revocation lists that came with it.

        Raises:
            Unavailable: a certificate cannot be had.
            Malformed: what came with the evidence cannot be read.
        """
        supply = self._supply
        if supply is None:
            return self._store.for_evidence(evidence, crls)
        if not evidence.certificates:
            leaf = supply.get(kds.signer(Report.from_bytes(evidence.report)))
            evidence = replace(evidence, certificates=(leaf.body,))
        vek = VekCertificate.from_bytes(evidence.certificates[0])
        try:
            found = self._store.for_evidence(evidence, crls)
        except Unavailable:
            chain = supply.get(kds.chain(vek.product, vek.kind))
            issuers = (
                certificate.public_bytes(Encoding.DER)
                for certificate in read_chain(chain.body, "SNP endorsements: chain")
            )
            evidence = replace(evidence, certificates=(*evidence.certificates, *issuers))
            found = self._store.for_evidence(evidence, crls)
        if self._store.has_current_crl(found.root, self._clock()):
            return found
        try:
            crl = supply.get(kds.crl(vek.product, vek.kind))
        except Unavailable as error:
            # What came with the evidence may do, or the policy may not require a list.
            LOGGER.warning("no revocation list: %s", error)
            return found
        return self._store.for_evidence(evidence, (crl.body, *crls))

    def for_dcap(
        self, tee: pcs.IntelTee, fmspc: str, ca: pcs.Ca, root: str | None = None
    ) -> DcapCollateral:
        """What verifies a quote.

        Args:
            tee: whose quote.
            fmspc: the platform, from the PCK certificate, 12 hex digits.
            ca: who issued the PCK certificate.
            root: what a simulated root is called, which has documents of its own; None: Intel's.

        Raises:
            Unavailable: a document cannot be had.
            Malformed: `fmspc` is not 12 hex digits.
        """
        tcb_info = pcs.tcb_info(tee, fmspc)
        simulated = self._simulated.get((tee, root or ""))
        if simulated is not None:
            return simulated
        if self._supply is None:
            raise _no_cache()
        qe_identity = self._supply.get(pcs.qe_identity(tee))
        signed = self._supply.get(tcb_info)
        return DcapCollateral(
            root_crl=self._supply.get(pcs.root_crl()).body,
            pck_crl=self._supply.get(pcs.pck_crl(ca)).body,
            tcb_info=signed.body,
            tcb_info_chain=signed.issuer_chain,
            qe_identity=qe_identity.body,
            qe_identity_chain=qe_identity.issuer_chain,
        )

    def check_snp(self, products: Sequence[Product]) -> None:
        """Check that revocation lists are there: in a directory, or else of all `products`.

        Raises:
            Unavailable: one is missing and cannot be had.
        """
        if self._store.has_any_current_crl(self._clock()):
            return
        if self._supply is None:
            raise Unavailable(
                "no current revocation list is there",
                field="SNP endorsements",
                hint="renew the policy's endorsements, or name a `cache` in its [endorsements]",
            )
        for product in products:
            self._supply.get(kds.crl(product, SigningKey.VCEK))

    def check_dcap(self, tee: pcs.IntelTee) -> None:
        """Check that what all quotes of `tee` need is there.

        Raises:
            Unavailable: something is missing and cannot be had.
        """
        if self._supply is None:
            if any(simulated == tee for simulated, _ in self._simulated):
                return
            raise _no_cache()
        self._supply.get(pcs.root_crl())
        self._supply.get(pcs.qe_identity(tee))

    def start_renewing(self) -> Callable[[], None]:
        """Renew what is due every ten minutes from now on, in a thread of its own.

        So an idle steward is ready, and a vendor's outage of some days passes unnoticed. Where
        nothing may be fetched, it does nothing.

        Returns:
            A function that ends it.
        """
        stop = threading.Event()
        supply = self._supply

        def run(supply: Supply) -> None:
            while not stop.wait(_RENEWAL_SECONDS):
                supply.renew_due()

        if supply is not None and self._fetches:
            threading.Thread(target=run, args=(supply,), daemon=True).start()
        return stop.set


def _no_cache() -> Unavailable:
    return Unavailable(
        "there is no cache of Intel's collateral",
        field="DCAP endorsements",
        hint="name a directory as `cache` in the policy's [endorsements]",
    )
