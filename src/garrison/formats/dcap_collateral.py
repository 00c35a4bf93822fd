"""Intel's collateral: TCB info and the identity of quoting enclaves, JSON that Intel signed.

Intel, "SGX and TDX Provisioning Certification Service API", version 4: Get TCB Info (version 3
of it) and Get Enclave Identity (version 2). The signature covers the exact bytes of the inner
object, which are kept. Levels stay in the order in which they were served: the first that
matches governs.

It refuses other versions, values of another type, names that stand twice and unknown statuses;
members that it does not know are the next revision's, and are skipped. It checks no signature.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

from garrison.errors import Malformed
from garrison.formats._der import check_size
from garrison.formats.sgx_certificate import COMPONENTS

# TCB info of a platform with many levels is 30 KB; an enclave identity below 2 KB.
MAX_JSON = 256 * 1024
# Collateral is the same for every quote of a kind of platform: each document is read once.
_REMEMBERED = 64
# Of a tcbEvaluationDataNumber: Intel counts a few a year.
MAX_EVALUATION = 0xFFFFFFFF
# The most levels that one document has: Intel's have below 30.
_MAX_LEVELS = 256
_SIGNED = re.compile(
    rb'\s*\{\s*"(tcbInfo|enclaveIdentity)"\s*:\s*(\{.*\})\s*,\s*"signature"\s*:\s*'
    rb'"([0-9A-Fa-f]{128})"\s*\}\s*',
    re.DOTALL,
)

T = TypeVar("T")


class TcbStatus(StrEnum):
    """What Intel says of a TCB level."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING = "SWHardeningNeeded"
    CONFIGURATION = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"


@dataclass(frozen=True, slots=True)
class DcapCollateral:
    """All that verifies a quote, as Intel serves it.

    Attributes:
        root_crl: the root's revocation list, DER.
        pck_crl: that of the PCK certificate's issuer, DER.
        tcb_info: JSON `{"tcbInfo": ..., "signature": ...}`.
        tcb_info_chain: its signer's chain, PEM.
        qe_identity: JSON `{"enclaveIdentity": ..., "signature": ...}`; None where the sender of
            an original's request chose the collateral, which never has one.
        qe_identity_chain: its signer's chain, PEM.
    """

    root_crl: bytes
    pck_crl: bytes
    tcb_info: bytes
    tcb_info_chain: bytes
    qe_identity: bytes | None
    qe_identity_chain: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed inner object: its exact bytes, and r and s, 32 bytes each."""

    data: bytes
    signature: bytes

    @classmethod
    @lru_cache(_REMEMBERED)
    def from_bytes(cls, document: bytes, member: str) -> Signed:
        """Take the object named `member` out of a document that has it and a signature.

        Raises:
            Malformed: it is anything else.
        """
        check_size(document, MAX_JSON, member)
        match = _SIGNED.fullmatch(document)
        if match is None or match[1] != member.encode():
            raise Malformed("not signed collateral", field=member, expected="it and its signature")
        return cls(match[2], bytes.fromhex(match[3].decode()))


@dataclass(frozen=True, slots=True)
class SvnLevel:
    """A level of an enclave or a TDX module: the least security version, and what holds there."""

    isv_svn: int
    status: TcbStatus
    date: datetime
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """A level of a platform.

    Attributes:
        components: the least security versions of the 16 components.
        pce_svn: the provisioning enclave's.
        tdx_components: those of TDX; None in TCB info of SGX.
        status: what holds there.
        date: when its TCB was published.
        advisories: Intel's, that apply.
    """

    components: tuple[int, ...]
    pce_svn: int
    tdx_components: tuple[int, ...] | None
    status: TcbStatus
    date: datetime
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TdxModule:
    """Who signs TDX modules, and of which attributes; levels where `name` is that of a version."""

    name: str
    mr_signer: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[SvnLevel, ...]


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """TCB info of version 3.

    Attributes:
        tee: `SGX` or `TDX`.
        issued: when it was.
        expires: when the next is due.
        fmspc: whose platforms', 6 bytes.
        pce_id: which provisioning enclave, 2 bytes.
        evaluation: the number of the evaluation of Intel's that it belongs to.
        levels: the levels, in the order in which they were served.
        module: the TDX module of major version 0; None in TCB info of SGX.
        modules: the TDX modules of others.
    """

    tee: str
    issued: datetime
    expires: datetime
    fmspc: bytes
    pce_id: bytes
    evaluation: int
    levels: tuple[TcbLevel, ...]
    module: TdxModule | None
    modules: tuple[TdxModule, ...]

    @classmethod
    @lru_cache(_REMEMBERED)
    def from_json(cls, data: bytes) -> TcbInfo:
        """Read the inner object.

        Raises:
            Malformed: it is not TCB info of version 3.
        """
        info = _Object(_json(data, "TCB info"), "TCB info")
        # Version 2, which an older version of Intel's service gives, has no "id" at all.
        info.of_version(3)
        tee = info.text("id", ("SGX", "TDX"))
        # PCS API: 0 is the only composition of components that is defined.
        info.exactly("tcbType", 0)
        module = None
        modules: tuple[TdxModule, ...] = ()
        if tee == "TDX":
            module = _module(info.inner("tdxModule"), "")
            modules = tuple(
                _module(each, each.text("id")) for each in info.objects("tdxModuleIdentities", ())
            )
            names = [each.name for each in modules]
            if len(set(names)) != len(names):
                raise Malformed("one there twice", field="TCB info: tdxModuleIdentities")
        return cls(
            tee=tee,
            issued=info.time("issueDate"),
            expires=info.time("nextUpdate"),
            fmspc=info.octets("fmspc", 6),
            pce_id=info.octets("pceId", 2),
            evaluation=info.number("tcbEvaluationDataNumber", MAX_EVALUATION),
            levels=tuple(_tcb_level(each, tee) for each in info.objects("tcbLevels")),
            module=module,
            modules=modules,
        )


@dataclass(frozen=True, slots=True)
class EnclaveIdentity:
    """Which enclave is Intel's quoting enclave; bytes are in the order of its memory.

    Attributes:
        name: `QE` for SGX, `TD_QE` for TDX.
        issued: when it was.
        expires: when the next is due.
        evaluation: the number of the evaluation of Intel's that it belongs to.
        misc_select: what MISCSELECT must be.
        misc_select_mask: in these bits.
        attributes: what ATTRIBUTES must be.
        attributes_mask: in these bits.
        mr_signer: who signed it.
        isv_prod_id: its product number.
        levels: its levels, in the order in which they were served.
    """

    name: str
    issued: datetime
    expires: datetime
    evaluation: int
    misc_select: bytes
    misc_select_mask: bytes
    attributes: bytes
    attributes_mask: bytes
    mr_signer: bytes
    isv_prod_id: int
    levels: tuple[SvnLevel, ...]

    @classmethod
    @lru_cache(_REMEMBERED)
    def from_json(cls, data: bytes) -> EnclaveIdentity:
        """Read the inner object.

        Raises:
            Malformed: it is not an enclave's identity of version 2.
        """
        identity = _Object(_json(data, "QE identity"), "QE identity")
        identity.of_version(2)
        return cls(
            name=identity.text("id", ("QE", "TD_QE")),
            issued=identity.time("issueDate"),
            expires=identity.time("nextUpdate"),
            evaluation=identity.number("tcbEvaluationDataNumber", MAX_EVALUATION),
            misc_select=identity.octets("miscselect", 4),
            misc_select_mask=identity.octets("miscselectMask", 4),
            attributes=identity.octets("attributes", 16),
            attributes_mask=identity.octets("attributesMask", 16),
            mr_signer=identity.octets("mrsigner", 32),
            isv_prod_id=identity.number("isvprodid", 0xFFFF),
            levels=tuple(_svn_level(each) for each in identity.objects("tcbLevels")),
        )


class _Object:
    """A JSON object, whose members are taken by name and type."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise Malformed("not an object", field=what)
        self._value: dict[str, Any] = value
        self._what = what

    def _wrong(self, key: str, expected: object) -> Malformed:
        return Malformed("missing or wrong", field=f"{self._what}: {key}", expected=expected)

    def _take(self, key: str, kind: type[T]) -> T:
        value = self._value.get(key)
        # True is an integer in Python and not in JSON.
        if type(value) is not kind:
            raise self._wrong(key, kind.__name__)
        return value

    def text(self, key: str, choices: tuple[str, ...] = ()) -> str:
        value = self._take(key, str)
        if choices and value not in choices:
            raise self._wrong(key, " | ".join(choices))
        return value

    def of_version(self, wanted: int) -> None:
        """Refuse another version, as older versions of Intel's service give."""
        found = self.number("version", 0xFF)
        if found != wanted:
            raise Malformed(
                "another version",
                field=f"{self._what}: version",
                found=found,
                expected=wanted,
                hint="get it from version 4 of Intel's service, at /certification/v4/",
            )

    def exactly(self, key: str, value: int) -> None:
        if self._take(key, int) != value:
            raise self._wrong(key, value)

    def number(self, key: str, limit: int) -> int:
        value = self._take(key, int)
        if not 0 <= value <= limit:
            raise self._wrong(key, f"0 to {limit}")
        return value

    def octets(self, key: str, size: int) -> bytes:
        text = self._take(key, str)
        if re.fullmatch(rf"[0-9A-Fa-f]{{{2 * size}}}", text) is None:
            raise self._wrong(key, f"{2 * size} hex digits")
        return bytes.fromhex(text)

    def time(self, key: str) -> datetime:
        text = self._take(key, str)
        if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text, re.ASCII) is None:
            raise self._wrong(key, "YYYY-MM-DDThh:mm:ssZ")
        try:
            return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError as error:
            raise self._wrong(key, "YYYY-MM-DDThh:mm:ssZ") from error

    def inner(self, key: str) -> _Object:
        return _Object(self._take(key, dict), f"{self._what}: {key}")

    def objects(self, key: str, *default: tuple[()]) -> list[_Object]:
        if default and key not in self._value:
            return []
        values = self._take(key, list)
        if len(values) > _MAX_LEVELS:
            raise self._wrong(key, f"at most {_MAX_LEVELS}")
        return [_Object(value, f"{self._what}: {key}") for value in values]

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings, none if it is not there."""
        values = self._value.get(key, [])
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise self._wrong(key, "a list of strings")
        return tuple(values)


def _json(data: bytes, what: str) -> object:
    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(members)
        if len(found) != len(members):
            raise Malformed("a name stands twice", field=what)
        return found

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field=what) from error


def _status(level: _Object) -> TcbStatus:
    return TcbStatus(level.text("tcbStatus", tuple(TcbStatus)))


def _svn_level(level: _Object) -> SvnLevel:
    return SvnLevel(
        level.inner("tcb").number("isvsvn", 0xFFFF),
        _status(level),
        level.time("tcbDate"),
        level.texts("advisoryIDs"),
    )


def _module(module: _Object, name: str) -> TdxModule:
    return TdxModule(
        name=name,
        mr_signer=module.octets("mrsigner", 48),
        attributes=module.octets("attributes", 8),
        attributes_mask=module.octets("attributesMask", 8),
        levels=tuple(_svn_level(each) for each in module.objects("tcbLevels")) if name else (),
    )


def _components(tcb: _Object, key: str) -> tuple[int, ...]:
    values = tcb.objects(key)
    if len(values) != COMPONENTS:
        raise Malformed(
            "wrong number",
            field=f"TCB info: {key}",
            found=len(values),
            expected=COMPONENTS,
        )
    return tuple(value.number("svn", 0xFF) for value in values)


def _tcb_level(level: _Object, tee: str) -> TcbLevel:
    tcb = level.inner("tcb")
    return TcbLevel(
        components=_components(tcb, "sgxtcbcomponents"),
        pce_svn=tcb.number("pcesvn", 0xFFFF),
        tdx_components=_components(tcb, "tdxtcbcomponents") if tee == "TDX" else None,
        status=_status(level),
        date=level.time("tcbDate"),
        advisories=level.texts("advisoryIDs"),
    )
