"""The steward's own look at a drawbridge or an OCI registry: which digest does this tag have?

A keep says what it runs. The steward does not take its word: it asks the drawbridge or registry
that its policy names, over TLS under the CA that the policy names, as itself. Where the policy
names keys for its tags, the tag must be signed with one of them, under this very name.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from garrison.drawbridge.client import Client, ClientCertificate
from garrison.drawbridge.oci import OciClient
from garrison.errors import Rejected
from garrison.formats.oci_name import OciName
from garrison.steward.certificates import issue_client_certificate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.formats.oci_name import Name
    from garrison.formats.signed_tag import TagKey
    from garrison.steward.authority import Authority


class Registry(Protocol):
    """Whoever knows the digests of tags."""

    def tag_digest(self, slug: Name) -> bytes:
        """The digest (32 bytes) of the workload that `slug` names.

        Raises:
            Rejected: the drawbridge does not show such a tag.
            Unverified: what the drawbridge answered contradicts itself, or is not signed as it must
                be.
            Unavailable: the drawbridge cannot be asked.
        """


class Drawbridges:
    """The drawbridges and OCI registries that a policy names."""

    def __init__(
        self,
        hosts: Mapping[str, str | None],
        authority: Authority,
        *,
        oci_hosts: Mapping[str, str | None] = MappingProxyType({}),
        tag_keys: Mapping[str, tuple[TagKey, ...]] = MappingProxyType({}),
        oci_tag_keys: Mapping[str, tuple[TagKey, ...]] = MappingProxyType({}),
    ) -> None:
        """Prepare to ask them; nothing is sent yet.

        Args:
            hosts: drawbridge's host, and the PEM of its CA, or None for the web's roots.
            authority: under which the steward certifies itself.
            oci_hosts: likewise of OCI registries.
            tag_keys: drawbridge's host, and the keys of which one must have signed its tags.
            oci_tag_keys: likewise of OCI registries.
        """
        self._hosts = hosts
        self._authority = authority
        self._oci_hosts = oci_hosts
        self._tag_keys = tag_keys
        self._oci_tag_keys = oci_tag_keys

    def tag_digest(self, slug: Name) -> bytes:
        """See `Registry.tag_digest`."""
        is_oci = isinstance(slug, OciName)
        hosts = self._oci_hosts if is_oci else self._hosts
        if slug.host not in hosts:
            what = "an OCI registry" if is_oci else "a drawbridge"
            raise Rejected(f"not {what} of the policy", field="slug", found=slug)
        # A certificate of minutes for each question: there is no key to keep or to renew.
        chain, key = issue_client_certificate(self._authority, datetime.now(UTC))
        # One try: a keep waits for the answer.
        certificate = ClientCertificate(chain, key)
        if isinstance(slug, OciName):
            registry = OciClient(
                slug.host, ca_pem=hosts[slug.host], certificate=certificate, tries=1
            )
            keys = self._oci_tag_keys.get(slug.host)
            return (
                registry.tag_digest(slug)
                if keys is None
                else registry.signed_tag_digest(slug, keys)
            )
        client = Client(slug.host, ca_pem=hosts[slug.host], certificate=certificate, tries=1)
        keys = self._tag_keys.get(slug.host)
        return client.tag_digest(slug) if keys is None else client.signed_tag_digest(slug, keys)
