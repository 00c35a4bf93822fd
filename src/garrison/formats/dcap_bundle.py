"""Intel's collateral for one platform in one JSON file, as quote verifiers exchange it.

An object of strings: `root_ca_crl` and `pck_crl` are DER in hex; `tcb_info` and `qe_identity` are
the exact signed text of the inner objects, `tcb_info_signature` and `qe_identity_signature` their
signatures in hex; `tcb_info_issuer_chain` and `qe_identity_issuer_chain` are PEM. Other members
are not looked at. Nothing is judged here: `garrison.verification.dcap` checks every signature.
"""

from __future__ import annotations

import json

from garrison.errors import Malformed
from garrison.formats._der import check_size
from garrison.formats.dcap_collateral import DcapCollateral, Signed

# TCB info has 20 KB and quotes double; the rest is smaller.
MAX_BUNDLE = 512 * 1024
_WHAT = "collateral"


def read_bundle(data: bytes) -> DcapCollateral:
    """Read a file of collateral.

    Raises:
        Malformed: it is anything else.
    """
    check_size(data, MAX_BUNDLE, _WHAT)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field=_WHAT) from error
    if not isinstance(value, dict):
        raise Malformed("wrong type", field=_WHAT, expected="an object")

    def text(key: str) -> str:
        found = value.get(key)
        if not isinstance(found, str) or not found.isascii():
            raise Malformed("missing, or not text", field=f"{_WHAT}: {key}", expected="a string")
        return found

    def octets(key: str) -> bytes:
        try:
            return bytes.fromhex(text(key))
        except ValueError as error:
            raise Malformed("not hex digits", field=f"{_WHAT}: {key}") from error

    def served(member: str, key: str) -> bytes:
        # As Intel serves it: the signature is over the exact bytes of the inner object.
        return (
            f'{{"{member}":{text(key)},"signature":"{octets(f"{key}_signature").hex()}"}}'.encode()
        )

    return DcapCollateral(
        root_crl=octets("root_ca_crl"),
        pck_crl=octets("pck_crl"),
        tcb_info=served("tcbInfo", "tcb_info"),
        tcb_info_chain=text("tcb_info_issuer_chain").encode(),
        qe_identity=served("enclaveIdentity", "qe_identity"),
        qe_identity_chain=text("qe_identity_issuer_chain").encode(),
    )


def write_bundle(collateral: DcapCollateral) -> bytes:
    """Write a file of collateral; `read_bundle` gives the same again."""
    members: dict[str, str] = {
        "root_ca_crl": collateral.root_crl.hex(),
        "pck_crl": collateral.pck_crl.hex(),
    }
    for key, served, member, chain in (
        ("tcb_info", collateral.tcb_info, "tcbInfo", collateral.tcb_info_chain),
        (
            "qe_identity",
            collateral.qe_identity,
            "enclaveIdentity",
            collateral.qe_identity_chain,
        ),
    ):
        signed = Signed.from_bytes(served, member)
        members[key] = signed.data.decode("ascii")
        members[f"{key}_signature"] = signed.signature.hex()
        members[f"{key}_issuer_chain"] = chain.decode("ascii")
    return json.dumps(members, indent=2).encode() + b"\n"
