"""The other way round: from a URL to what it names, and to the platforms that need it.

Only what `kds` and `pcs` name is known. A bundle that brings anything else is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from garrison.endorsements import kds, pcs
from garrison.endorsements.resource import Kind, Resource
from garrison.errors import Malformed, Misuse
from garrison.formats.snp import Product, SigningKey

_PRODUCTS = {product.lower(): product for product in Product}
_VCEK = re.compile(
    rf"{re.escape(kds.ORIGIN)}/vcek/v1/(?P<product>[A-Z][a-z]+)/(?:[0-9a-f]{{16}}|[0-9a-f]{{128}})"
    r"\?(?:fmcSPL=[0-9]{1,3}&)?blSPL=[0-9]{1,3}&teeSPL=[0-9]{1,3}&snpSPL=[0-9]{1,3}&ucodeSPL=[0-9]{1,3}"
)
_TCB_INFO = re.compile(
    rf"{re.escape(pcs.ORIGIN)}/(?P<tee>sgx|tdx)/certification/v4/tcb\?fmspc=(?P<fmspc>[0-9a-f]{{12}})"
)


@dataclass(frozen=True, slots=True)
class Known:
    """What a URL names.

    Attributes:
        resource: the document.
        platform: the product line or FMSPC that needs it; None: every platform of its vendor.
        vendor: `amd` or `intel`.
    """

    resource: Resource
    platform: str | None
    vendor: str


_FIXED = {
    **{
        named(product, kind).url: Known(named(product, kind), product.value, "amd")
        for product in Product
        for kind in (SigningKey.VCEK, SigningKey.VLEK)
        for named in (kds.chain, kds.crl)
    },
    **{
        resource.url: Known(resource, None, "intel")
        for resource in (
            pcs.root_crl(),
            *(pcs.pck_crl(ca) for ca in pcs.Ca),
            *(pcs.qe_identity(tee) for tee in pcs.IntelTee),
        )
    },
}


def identify(url: str) -> Known:
    """What `url` names.

    Raises:
        Malformed: nothing that is fetched here.
    """
    if url in _FIXED:
        return _FIXED[url]
    if (match := _VCEK.fullmatch(url)) and match["product"] in set(Product):
        return Known(Resource(url, Kind.VEK), match["product"], "amd")
    if match := _TCB_INFO.fullmatch(url):
        fmspc = match["fmspc"]
        return Known(pcs.tcb_info(pcs.IntelTee(match["tee"]), fmspc), fmspc, "intel")
    raise Malformed("not a document of a vendor", field="URL", found=repr(url[:200]))


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform by the name that a user gives it: a product line of AMD, or an FMSPC of Intel."""

    name: str
    vendor: str

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `text`: `milan`, `genoa`, `turin`, or 12 hex digits.

        Raises:
            Misuse: it is anything else.
        """
        lower = text.lower()
        if lower in _PRODUCTS:
            return cls(_PRODUCTS[lower].value, "amd")
        try:
            pcs.tcb_info(pcs.IntelTee.SGX, lower)
        except Malformed as error:
            raise Misuse(
                "not a platform",
                field="platform",
                found=repr(text[:64]),
                expected=f"{', '.join(_PRODUCTS)}, or an FMSPC of 12 hex digits",
            ) from error
        return cls(lower, "intel")

    def needs(self, known: Known) -> bool:
        """Whether a steward needs the document for this platform."""
        return known.vendor == self.vendor and known.platform in {None, self.name}

    def shared(self) -> list[Resource]:
        """What can be named without a chip of it."""
        if self.vendor == "amd":
            return list(kds.shared(Product(self.name)))
        return list(pcs.shared(self.name))
