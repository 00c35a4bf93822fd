"""The steward's own look at a drawbridge: which one it asks, and as whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from tests.unit.steward.conftest import DIGEST, SLUG

from garrison.errors import Rejected
from garrison.formats.slug import Slug
from garrison.steward import registry
from garrison.steward.authority import Authority

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from garrison.drawbridge.client import ClientCertificate

ASKED: list[tuple[str, str | None, ClientCertificate, Slug]] = []


class FakeClient:
    """Takes the place of the drawbridge's client, and notes how it is used."""

    def __init__(
        self, host: str, *, ca_pem: str | None, certificate: ClientCertificate, tries: int
    ) -> None:
        assert tries == 1
        self._made = (host, ca_pem, certificate)

    def tag_digest(self, slug: Slug) -> bytes:
        ASKED.append((*self._made, slug))
        return DIGEST


@pytest.fixture
def drawbridges(monkeypatch: pytest.MonkeyPatch, directory: Path) -> registry.Drawbridges:
    class Clock:
        @staticmethod
        def now(_zone: object) -> datetime:
            return Authority.load(directory).certificate.not_valid_before_utc

    ASKED.clear()
    monkeypatch.setattr(registry, "Client", FakeClient)
    monkeypatch.setattr(registry, "datetime", Clock)
    return registry.Drawbridges({SLUG.host: "the CA"}, Authority.load(directory))


def test_drawbridge_is_asked_under_its_ca_and_as_the_steward(
    drawbridges: registry.Drawbridges,
) -> None:
    assert drawbridges.tag_digest(SLUG) == DIGEST
    ((host, ca_pem, certificate, slug),) = ASKED
    assert (host, ca_pem, slug) == (SLUG.host, "the CA", SLUG)
    leaf = x509.load_pem_x509_certificate(certificate.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://example.test/steward"]


def test_other_drawbridge_is_never_asked(drawbridges: registry.Drawbridges) -> None:
    with pytest.raises(Rejected) as caught:
        drawbridges.tag_digest(Slug.parse("other.test/jane/chat:1.0.0"))
    assert "not a drawbridge of the policy" in str(caught.value)
    assert ASKED == []
