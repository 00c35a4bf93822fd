"""What a tenant asks of a host: read strictly, whatever comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed, Rejected, Unverified
from garrison.formats.launch_request import LaunchRequest
from garrison.formats.slug import Slug
from garrison.host.spec import KeepSpec
from garrison.host.verify import Wanted
from garrison.testing.tls import Authority, keep, workload

LAUNCH = LaunchRequest("d.test/u/r:1.0.0", "https://s.test", "pem", None, {"kind": "nil"})
SPEC = KeepSpec(LAUNCH, "always", (8443, 1), 128, "kvm")
FIELDS = json.loads(SPEC.to_json())
SLUG = Slug.parse("drawbridge.test/jane/chat:1.2.3")


def test_a_spec_is_read_as_it_was_written() -> None:
    assert KeepSpec.from_json(SPEC.to_json()) == SPEC
    assert KeepSpec.from_json(KeepSpec(LAUNCH).to_json()) == KeepSpec(LAUNCH)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"restart": "often"}, "keep: restart"),
        ({"restart": ["no"]}, "keep: restart"),
        ({"backend": "sgx"}, "keep: backend"),
        ({"backend": None}, "keep: backend"),
        ({"ports": [0]}, "keep: ports"),
        ({"ports": [65536]}, "keep: ports"),
        ({"ports": [True]}, "keep: ports"),
        ({"ports": [5, 5]}, "keep: ports"),
        ({"ports": "8443"}, "keep: ports"),
        ({"ports": list(range(1, 100))}, "keep: ports"),
        ({"memory_mib": 63}, "keep: memory_mib"),
        ({"memory_mib": 1.5}, "keep: memory_mib"),
        ({"more": 1}, "keep"),
        ({"launch": {"slug": "d.test/u/r:1.0.0"}}, "launch request"),
        ({"launch": []}, "launch request"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Malformed) as caught:
        KeepSpec.from_json(json.dumps(FIELDS | change).encode())
    assert caught.value.field == field


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*FIELDS, "x"]), inner, max_size=4)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_a_spec_or_malformed(data: bytes) -> None:
    try:
        KeepSpec.from_json(data)
    except Malformed:
        return


def test_a_certificate_has_to_say_exactly_what_was_deployed() -> None:
    authority = Authority()
    certificate = authority.issue(workload()).chain[0]
    digest = b"\x11" * 32
    assert Wanted(SLUG, digest, None).check(certificate).workload.slug == SLUG
    Wanted(SLUG, digest, None, frozenset({b"\x22" * 48})).check(certificate)
    other = Slug.parse("drawbridge.test/jane/chat:1.2.4")
    for wanted, field in (
        (Wanted(other, digest, None), "slug"),
        (Wanted(SLUG, bytes(32), None), "digest"),
        (Wanted(SLUG, digest, bytes(32)), "policy"),
        (Wanted(SLUG, digest, None, frozenset({bytes(48)})), "measurement"),
        (Wanted(SLUG, digest, None, frozenset()), "measurement"),
    ):
        with pytest.raises(Rejected) as caught:
            wanted.check(certificate)
        assert caught.value.field == f"the keep's certificate: {field}"
    with pytest.raises(Rejected):
        Wanted(SLUG, digest, None).check(authority.issue(keep()).chain[0])
    with pytest.raises(Unverified):
        Wanted(SLUG, digest, None).check(authority.issue(hosts=("a.test",)).chain[0])
