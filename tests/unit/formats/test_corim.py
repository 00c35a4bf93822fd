"""Reference values in CoRIMs, in the form of the draft's own examples."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from garrison.cli.steward import command
from garrison.errors import Malformed, Rejected
from garrison.formats._cbor import Tagged, encode
from garrison.formats.corim import MAX_CORIM, Corim, ReferenceValue

if TYPE_CHECKING:
    from pathlib import Path

# draft-ietf-rats-corim-10, examples corim-1 and comid-firmware-cd: environments and digests.
DIGEST = bytes.fromhex("44aa336af4cb14a879432e53dd6571c7fa9bccafb75f488259262d6ea3a4d91b")
LAYER = bytes.fromhex(
    "15e77d6f133252f1db7044901313884f2977d2109b33c79f33e079bfc7886525"
    "5c0fb733c240fdda544b8215d7b8f815"
)
ENVIRONMENT = {
    0: {
        0: Tagged(37, bytes.fromhex("67b28b6c34cc40a19117ab5b05911e37")),
        1: "ACME Inc.",
        2: "ACME RoadRunner",
        3: 1,
    }
}
MEASUREMENT = {1: {0: {0: "1.0.0", 1: 16384}, 2: [[1, DIGEST]]}}
GOOD = ReferenceValue("ACME Inc.", "ACME RoadRunner", "", "sha-256", DIGEST)


def comid(*triples: object, **more: Any) -> Tagged:
    entity = {0: "ACME Inc.", 1: Tagged(32, "https://acme.example"), 2: [0]}
    identity = {0: bytes.fromhex("3f06af63a93c11e4979700505690773f")}
    members = {1: identity, 2: [entity], 4: {0: list(triples)} | more.get("others", {})}
    return Tagged(506, encode(members))


def corim(*tags: object, **more: Any) -> bytes:
    members = {0: bytes(16), 1: list(tags)} | more.get("members", {})
    return encode(Tagged(501, members))


def values(*measurements: object, environment: object = ENVIRONMENT) -> tuple[Any, ...]:
    return Corim.from_bytes(corim(comid([environment, list(measurements)]))).values


def test_the_drafts_first_example() -> None:
    found = Corim.from_bytes(corim(comid([ENVIRONMENT, [MEASUREMENT]])))
    assert found == Corim((GOOD,), None)


def test_two_environments_and_triples_of_another_kind() -> None:
    second = {0: {1: "fwmfginc.example", 2: "fwY_n5x", 3: 0, 4: 0}}
    endorsed = {1: [[second, [{1: {4: Tagged(560, bytes(8)), 5: bytes(8)}}]]]}
    tag = comid(
        [ENVIRONMENT, [MEASUREMENT]],
        [second, {1: {1: Tagged(552, 1), 2: [[7, LAYER]]}}],
        others=endorsed,
    )
    layer = ReferenceValue("fwmfginc.example", "fwY_n5x", "", "sha-384", LAYER)
    assert Corim.from_bytes(corim(tag)).values == (GOOD, layer)
    assert Corim.from_bytes(corim(tag, tag)).values == (GOOD, layer) * 2


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("cca.rim", "cca.rim"),
        (3, "3"),
        (Tagged(37, b"\x31" * 16), "31" * 16),
        (Tagged(560, b"\xab\xcd"), "abcd"),
    ],
    ids=["text", "number", "uuid", "bytes"],
)
def test_measured_elements_have_names(key: object, name: str) -> None:
    (found,) = values({0: key} | MEASUREMENT)
    assert found.name == name


def test_registers() -> None:
    measurement = {0: "rtmr", 1: {14: {0: [["sha-384", LAYER]], 5: [[1, DIGEST], [7, LAYER]]}}}
    assert [(item.name, item.algorithm) for item in values(measurement)] == [
        ("rtmr 0", "sha-384"),
        ("rtmr 5", "sha-256"),
        ("rtmr 5", "sha-384"),
    ]


def test_an_environment_without_a_class() -> None:
    (found,) = values(MEASUREMENT, environment={1: Tagged(550, bytes(33))})
    assert (found.vendor, found.model) == ("", "")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends too early"),
        (encode({}), "not an unsigned CoRIM"),
        (encode(Tagged(18, [b"", {}, b"", b""])), "not an unsigned CoRIM"),
        (encode(Tagged(501, [])), "wrong type"),
        (encode(Tagged(501, {0: "x"})), "missing"),
        (corim(), "no reference values"),
        (corim(Tagged(505, b"")), "not a CoMID"),
        (corim(Tagged(506, "text")), "not a CoMID"),
        (corim(b""), "not a CoMID"),
        (corim(comid()), "no reference values"),
        (corim(comid([ENVIRONMENT])), "not an array of two"),
        (corim(comid([[], [MEASUREMENT]])), "wrong type"),
        (corim(comid([ENVIRONMENT, [7]])), "wrong type"),
        (corim(comid([ENVIRONMENT, [{0: "x"}]])), "missing"),
        (corim(comid([ENVIRONMENT, [{1: {2: [[1, LAYER]]}}]])), "wrong length"),
        (corim(comid([ENVIRONMENT, [{1: {2: [[2, DIGEST]]}}]])), "unknown algorithm"),
        (corim(comid([ENVIRONMENT, [{1: {2: [["md5", DIGEST]]}}]])), "unknown algorithm"),
        (corim(comid([ENVIRONMENT, [{1: {2: [[True, DIGEST]]}}]])), "unknown algorithm"),
        (corim(comid([ENVIRONMENT, [{1: {14: {0: DIGEST}}}]])), "not a list"),
        (corim(comid([ENVIRONMENT, [{0: None} | MEASUREMENT]])), "unknown kind of name"),
        (corim(comid([ENVIRONMENT, [{0: "\x1b[31m"} | MEASUREMENT]])), "not a name"),
        (corim(comid([{0: {1: "x" * 257}}, [MEASUREMENT]])), "not a name"),
        (
            corim(comid([ENVIRONMENT, [MEASUREMENT]]), members={4: {1: 7}}),
            "not a time",
        ),
        (bytes(MAX_CORIM + 1), "too long"),
    ],
    ids=range(24),
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        Corim.from_bytes(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Corim.from_bytes(data)


@given(st.integers(0, 400), st.integers(0, 7))
def test_a_flipped_bit_gives_no_other_error(position: int, bit: int) -> None:
    data = bytearray(corim(comid([ENVIRONMENT, [MEASUREMENT]])))
    data[position % len(data)] ^= 1 << bit
    # Some bits leave a CoRIM, of another digest say; anything but Malformed fails.
    with contextlib.suppress(Malformed):
        Corim.from_bytes(bytes(data))


def test_command(tmp_path: Path) -> None:
    path = tmp_path / "vendor.corim"
    tag = comid([ENVIRONMENT, [MEASUREMENT, MEASUREMENT]])
    for end, good in ((4_102_444_800, True), (1_700_000_000, False)):
        path.write_bytes(corim(tag, members={4: {1: Tagged(1, end)}}))
        assert Corim.from_bytes(path.read_bytes()).not_after == datetime.fromtimestamp(end, UTC)
        done = CliRunner().invoke(command, ["policy", "corim", str(path)])
        if good:
            listed = f'["{DIGEST.hex()}", "{DIGEST.hex()}"]'
            assert done.stdout == f"# ACME Inc., ACME RoadRunner, sha-256\n{listed}\n"
        else:
            assert isinstance(done.exception, Rejected)
    path.write_bytes(corim(tag))
    (group,) = json.loads(
        CliRunner().invoke(command, ["policy", "corim", str(path), "--json"]).stdout
    )
    assert group["digests"] == [DIGEST.hex()] * 2
    assert (group["vendor"], group["algorithm"]) == ("ACME Inc.", "sha-256")
