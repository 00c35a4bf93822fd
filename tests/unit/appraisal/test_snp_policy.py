"""The `[snp]` section of a policy: strict, and nothing is unchecked by omission."""

from __future__ import annotations

from pathlib import Path

import pytest

from garrison.appraisal.snp import SnpPolicy
from garrison.errors import Malformed
from garrison.formats.snp import Product, Tcb
from garrison.formats.strict_toml import Table

BASE = Path("/etc/steward")
REQUIRED = {
    "measurements": '"any"',
    "products": '"any"',
    "minimum_tcb": '"any"',
    "id_key_digests": '"any"',
    "author_key_digests": '"any"',
    "host_data": '"any"',
    "chip_ids": '"any"',
    "endorsements": "[]",
}


def read(extra: str = "", **changes: str) -> SnpPolicy:
    keys = REQUIRED | changes
    text = "".join(f"{key} = {value}\n" for key, value in keys.items() if value)
    return SnpPolicy.from_table(Table.parse(text + extra, source="policy.toml"), BASE)


def refused(match: str, extra: str = "", **changes: str) -> Malformed:
    with pytest.raises(Malformed, match=match) as caught:
        read(extra, **changes)
    return caught.value


def test_what_may_be_left_out_is_strict() -> None:
    policy = read()
    assert policy.vmpl == (0,)
    assert policy.abi_minimum == (1, 51)
    assert not policy.debug
    assert not policy.migration
    assert not policy.smt
    assert policy.single_socket
    assert policy.crl_required
    assert policy.simulated_roots == {}
    assert policy.roots().simulated == {}


def test_all_values() -> None:
    policy = read(
        measurements=f'["{"ab" * 48}", "{"CD" * 48}"]',
        products='["Turin", "Milan"]',
        minimum_tcb="{Milan = {bl=4, tee=0, snp=24, ucode=219},"
        " Turin = {bl=3, tee=2, snp=5, ucode=97, fmc=1}}",
        id_key_digests=f'["{"01" * 48}"]',
        author_key_digests=f'["{"02" * 48}"]',
        host_data=f'["{"03" * 32}"]',
        chip_ids=f'["{"04" * 64}", "{"05" * 8}"]',
        vmpl="[0, 3]",
        abi_minimum='"1.55"',
        debug="true",
        migration="true",
        smt="true",
        single_socket="false",
        crl='"optional"',
        endorsements='["amd/milan", "/var/amd"]',
        extra='[insecure_simulated_roots.demo]\nkey_sha256 = "%s"\nendorsements = "sim"\n'
        % ("AB" * 32),
    )
    assert policy.measurements == (b"\xab" * 48, b"\xcd" * 48)
    assert policy.products == (Product.MILAN, Product.TURIN)
    assert policy.minimum_tcb == {
        Product.MILAN: Tcb(4, 0, 24, 219),
        Product.TURIN: Tcb(3, 2, 5, 97, fmc=1),
    }
    assert policy.id_key_digests == (b"\x01" * 48,)
    assert policy.author_key_digests == (b"\x02" * 48,)
    assert policy.host_data == (b"\x03" * 32,)
    assert policy.chip_ids == (b"\x04" * 64, b"\x05" * 8)
    assert policy.vmpl == (0, 3)
    assert policy.abi_minimum == (1, 55)
    assert policy.debug
    assert policy.migration
    assert policy.smt
    assert not policy.single_socket
    assert not policy.crl_required
    assert policy.endorsements == (BASE / "amd/milan", Path("/var/amd"), BASE / "sim")
    assert policy.simulated_roots == {"demo": "ab" * 32}
    assert policy.roots().simulated == {"ab" * 32: "demo"}


@pytest.mark.parametrize("key", REQUIRED)
def test_missing(key: str) -> None:
    refused(f"{key}: missing", **{key: ""})


@pytest.mark.parametrize(
    "key",
    ["measurements", "products", "id_key_digests", "author_key_digests", "host_data", "chip_ids"],
)
@pytest.mark.parametrize("value", ["[]", '""', '"all"', '"Any"', "true", "{}"])
def test_an_empty_list_and_other_words_refuse(key: str, value: str) -> None:
    reason = "an empty list admits nothing" if value == "[]" else "wrong type"
    error = refused(f"{key}: {reason}", **{key: value})
    assert error.hint == 'write "any" to admit all'


@pytest.mark.parametrize(
    ("key", "size"),
    [
        ("measurements", 48),
        ("id_key_digests", 48),
        ("author_key_digests", 48),
        ("host_data", 32),
        ("chip_ids", 64),
    ],
)
def test_digests_of_another_form(key: str, size: int) -> None:
    good = "ab" * size
    for entry in (good[:-2], good + "00", good[:-1] + "g", f" {good[1:]}", "any", ""):
        refused(f"{key}: wrong entry", **{key: f'["{good}", "{entry}"]'})
    refused(f"{key}: wrong entry", **{key: "[1]"})


@pytest.mark.parametrize("value", ['["Rome"]', '["milan"]', '["Milan", "Milan"]', "[1]"])
def test_unknown_product(value: str) -> None:
    refused("products: unknown product", products=value)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("{}", "minimum_tcb.Milan: missing"),
        ("{Genoa = {bl=1, tee=0, snp=1, ucode=1}}", "minimum_tcb.Milan: missing"),
        ("{Milan = {bl=1, tee=0, snp=1}}", "ucode: missing"),
        ("{Milan = {bl=1, tee=0, snp=1, ucode=256}}", "ucode: out of range"),
        ("{Milan = {bl=1, tee=0, snp=1, ucode=1, fmc=1}}", "fmc: unknown key"),
        ("{Milan = {bl=1, tee=0, snp=1, ucode=1}, Rome = {}}", "Rome: unknown key"),
        ('{Milan = "any"}', "minimum_tcb.Milan: wrong type"),
        ('"none"', "minimum_tcb: wrong type"),
        ("[]", "minimum_tcb: wrong type"),
    ],
)
def test_minimum_tcb_of_another_form(value: str, match: str) -> None:
    refused(match, products='["Milan"]', minimum_tcb=value)


def test_each_admitted_product_has_a_minimum() -> None:
    refused(
        "minimum_tcb.Genoa: missing",
        minimum_tcb="{Milan = {bl=1, tee=0, snp=1, ucode=1}}",
    )
    refused(
        "fmc: missing",
        products='["Turin"]',
        minimum_tcb="{Turin = {bl=1, tee=0, snp=1, ucode=1}}",
    )


@pytest.mark.parametrize("value", ["[]", "[4]", "[-1]", "[true]", '["0"]', "0", '"all"'])
def test_vmpl_of_another_form(value: str) -> None:
    refused("vmpl", vmpl=value)


@pytest.mark.parametrize("value", ['"1"', '"1.2.3"', '"1.x"', '""', '"1.1000"', '"\u0661.1"'])
def test_abi_of_another_form(value: str) -> None:
    refused("abi_minimum: not a version", abi_minimum=value)


def test_any() -> None:
    policy = read(vmpl='"any"', abi_minimum='"any"')
    assert policy.vmpl is None
    assert policy.abi_minimum is None
    assert policy.measurements is None


@pytest.mark.parametrize("key", ["debug", "migration", "smt", "single_socket"])
def test_flags_are_true_or_false(key: str) -> None:
    refused(f"{key}: wrong type", **{key: '"any"'})


def test_unknown_key() -> None:
    refused("measurment: unknown key", measurment='"any"')
    refused("crl: unknown value", crl='"any"')


@pytest.mark.parametrize(
    ("root", "match"),
    [
        ("[insecure_simulated_roots.x]", "key_sha256: missing"),
        (f'[insecure_simulated_roots.x]\nkey_sha256 = "{"0" * 63}"', "not a SHA-256"),
        (f'[insecure_simulated_roots.x]\nkey_sha256 = "{"0" * 64}"', "endorsements: missing"),
        (
            f'[insecure_simulated_roots.x]\nkey_sha256 = "{"0" * 64}"\nendorsements="a"\nb=1',
            "x.b: unknown key",
        ),
        ('[insecure_simulated_roots."a b"]', "wrong name"),
        (
            "".join(
                f'[insecure_simulated_roots.{name}]\nkey_sha256 = "{"0" * 64}"\nendorsements="a"\n'
                for name in "xy"
            ),
            "named twice",
        ),
    ],
)
def test_simulated_roots_of_another_form(root: str, match: str) -> None:
    refused(match, root)
