"""Packages in OCI registries (OCI Distribution Specification 1.1), as the drawbridge's client.

The registry is not trusted with more than a drawbridge: each blob is checked against the digest in
the manifest, and the files together against the workload's digest. Which manifest a tag names is
the registry's word, unless it is signed; a certificate names the digest that runs.

A registry may send its readers elsewhere for a blob. That is followed, over HTTPS, without
showing there who asks, for the digest says whether it is the right one.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urljoin, urlsplit

from garrison.drawbridge.client import Fetched
from garrison.drawbridge.oci_auth import Challenge, Login
from garrison.drawbridge.oci_manifest import (
    MANIFEST_TYPE,
    MAX_MANIFEST,
    SIGNATURE,
    Artifact,
    build,
)
from garrison.drawbridge.ranges import Contents
from garrison.drawbridge.retry import TRIES
from garrison.drawbridge.wire import CONNECTIONS, MAX_DOCUMENT, Whole, Wire, locked
from garrison.errors import Malformed, Rejected, Unverified
from garrison.formats import signed_tag
from garrison.formats.tree import Package

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.drawbridge.oci_manifest import Layer
    from garrison.drawbridge.tls import ClientCertificate
    from garrison.drawbridge.wire import Answer, Body
    from garrison.formats.oci_name import OciName
    from garrison.formats.signed_tag import SigningKey, TagKey
    from garrison.formats.tree import Entry

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 3


class OciClient:
    """A client of the OCI registry at one host."""

    def __init__(
        self,
        host: str,
        *,
        ca_pem: str | None = None,
        login: Login | None = None,
        certificate: ClientCertificate | None = None,
        tries: int = TRIES,
    ) -> None:
        """Prepare to speak with `host`; nothing is sent yet.

        Args:
            host: `host[:port]`.
            ca_pem: PEM certificates that may vouch for the server; None for the web's roots.
            login: a name and password, shown only if the registry asks for them.
            certificate: a client certificate, of a keep or a steward.
            tries: how often a request is sent to a server that says "not now".

        Raises:
            Malformed: the CA or the certificate is not PEM.
        """
        self.host = host
        self._login = login
        wire = partial(
            Wire, host, ca_pem=ca_pem, token=None, tries=tries, api="v2", server="OCI registry"
        )
        self._wire = wire(certificate=certificate)
        # Where the registry sends its clients, nobody learns who they are.
        self._anonymous = self._wire if certificate is None else wire(certificate=None)
        self._contents = Contents()
        self._lock = threading.Lock()
        # By scope; the empty one is that of a registry that wants a password each time.
        self._authorizations: dict[str, str] = {}

    def tag_digest(self, name: OciName) -> bytes:
        """The digest (32 bytes) of the workload that the tag names; raises as `fetch`."""
        return self._digest(name, self._artifact(name))

    def _digest(self, name: OciName, artifact: Artifact) -> bytes:
        if artifact.root is not None:
            return artifact.root.digest
        # Whoever made it did not say. The digest of all files is to be had from all of them.
        return self.fetch(name).digest

    def signed_tag_digest(self, name: OciName, keys: tuple[TagKey, ...]) -> bytes:
        """The digest of the workload that the tag names, if one of `keys` signed it for this name.

        Raises:
            Unverified: none did, or it is not signed, or the signature is of another workload.
            Rejected: as `fetch`; and the others too.
        """
        artifact = self._artifact(name)
        if artifact.signed is None:
            raise Unverified(
                "not signed", field=f"tag {name}", expected=f"the annotation {SIGNATURE}"
            )
        digest = signed_tag.verify(artifact.signed, name, keys).workload_digest
        # Without a root directory nothing but all files tells which workload it is.
        expected = "a root directory" if artifact.root is None else artifact.root.digest.hex()
        if digest.hex() != expected:
            raise Unverified(
                "the signature is of another workload",
                field=f"tag {name}",
                found=digest.hex(),
                expected=expected,
            )
        return digest

    def tag(self, name: OciName) -> Entry:
        """The entry of the workload's root; all of it is fetched. Raises as `fetch`."""
        return self.fetch(name).entry

    def fetch(
        self,
        name: OciName,
        progress: Callable[[int], None] = lambda _count: None,
        expect: Callable[[int], None] = lambda _total: None,
    ) -> Fetched:
        """Fetch the workload `name`, and check every byte; as `Client.fetch`.

        Raises:
            Rejected: there is no such tag, or it may not be read.
            Unverified: a byte differs from what the manifest pins.
            Malformed: it is not a package, or too large.
            Unavailable: the registry cannot be reached, or fails.
        """
        artifact = self._artifact(name)
        expect(sum(layer.size for layer in artifact.files.values()))
        advance = locked(progress)

        def blob(item: tuple[str, Layer]) -> tuple[str, bytes]:
            path, layer = item
            return path, self._blob(name, path, layer, advance)

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            package = Package(dict(pool.map(blob, artifact.files.items())))
        entry = package.entry
        if artifact.root is not None and entry.workload_digest != artifact.root.digest:
            raise Unverified(
                "the files are not those of the package's root directory",
                field=str(name),
                found=entry.workload_digest.hex(),
                expected=artifact.root.digest.hex(),
            )
        return Fetched(entry, entry.workload_digest, dict(package.files))

    def publish(
        self,
        name: OciName,
        package: Package,
        progress: Callable[[int], None] = lambda _count: None,
        *,
        key: SigningKey | None = None,
    ) -> Entry:
        """Publish `package` as `name`: its blobs, those that are not there, and then the manifest.

        The manifest is signed if there is a `key`. Without one, a signature that is there already
        stays.

        Raises:
            Rejected: the tag names another workload already, or the user may not write.
            Unavailable: the registry cannot be reached, or fails.
        """
        entry = package.entry
        there = self._check_is_free(name, entry)
        signed = signed_tag.sign(entry, name, key) if key is not None else there
        manifest, blobs = build(package, signed)
        advance = locked(progress)

        def put(item: tuple[str, bytes]) -> None:
            self._put_blob(name, *item)
            advance(len(item[1]))

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for _ in pool.map(put, blobs.items()):
                pass
        answer = self._request(
            "PUT",
            f"{name.path}/manifests/{name.tag}",
            name,
            body=manifest,
            extra={"Content-Type": MANIFEST_TYPE},
            writes=True,
        )
        if answer.status != 201:
            raise self._wire.refusal(answer, str(name))
        return entry

    def _check_is_free(self, name: OciName, entry: Entry) -> bytes | None:
        """Tags of registries can be moved; one of ours is not, by this client.

        Returns:
            The signature of the same workload that is there already, if there is one.
        """
        try:
            artifact = self._artifact(name)
            there = self._digest(name, artifact)
        except Rejected:
            # Most likely there is none. Who may not read will hear it again, from the next request.
            return None
        if there != entry.workload_digest:
            raise Rejected(
                "the tag names another workload already",
                field=str(name),
                found=there.hex(),
                expected=entry.workload_digest.hex(),
                hint="tags do not change: publish it under another one",
            )
        return artifact.signed

    def _artifact(self, name: OciName) -> Artifact:
        where = str(name)
        answer = self._request(
            "GET",
            f"{name.path}/manifests/{name.tag}",
            name,
            limit=MAX_MANIFEST,
            extra={"Accept": MANIFEST_TYPE},
        )
        if answer.status != 200:
            raise self._wire.refusal(answer, where)
        stated = answer.headers.get("Docker-Content-Digest")
        found = f"sha256:{sha256(answer.body).hexdigest()}"
        if stated is not None and stated != found:
            raise Unverified(
                "sha-256 digest mismatch", field=f"{where}: manifest", found=found, expected=stated
            )
        return Artifact.from_bytes(answer.body, where)

    def _blob(
        self, name: OciName, path: str, layer: Layer, progress: Callable[[int], None]
    ) -> bytes:
        where = f"{name} {path}"
        answer = self._contents.get(
            lambda got: self._blob_into(got, name, layer, where),
            where,
            length=layer.size,
            progress=progress,
        )
        found = answer.digest.values["sha-256"]
        if (len(answer.body), found) != (layer.size, layer.digest):
            raise Unverified(
                "sha-256 digest mismatch",
                field=where,
                found=f"{found.hex()}, {len(answer.body)} bytes",
                expected=f"{layer.digest.hex()}, {layer.size} bytes",
            )
        return answer.body

    def _blob_into(self, got: Body, name: OciName, layer: Layer, where: str) -> Answer:
        """GET what `got` wants of a blob, which may be elsewhere; it must be there."""
        path = f"{name.path}/blobs/{layer.reference}"
        answer = self._exchange("GET", path, name, got, resume=True)
        place = f"https://{self.host}/v2/{path}"
        for _ in range(_MOST_REDIRECTS):
            if answer.status not in _REDIRECTS:
                break
            # What is relative is so to whoever says it (RFC 9110, section 10.2.2).
            place = self._location(answer, where, place)
            answer = self._exchange("GET", place, name, got, resume=True)
        if answer.status != 200:
            raise self._wire.refusal(answer, where)
        return answer

    def _put_blob(self, name: OciName, digest: str, content: bytes) -> None:
        where = f"{name} {digest}"
        path = f"{name.path}/blobs/{digest}"
        if self._request("HEAD", path, name, limit=0, writes=True).status == 200:
            return
        begun = self._request("POST", f"{name.path}/blobs/uploads/", name, body=b"", writes=True)
        if begun.status != 202:
            raise self._wire.refusal(begun, where)
        place = self._location(begun, where, f"https://{self.host}/v2/")
        join = "&" if urlsplit(place).query else "?"
        answer = self._request(
            "PUT",
            f"{place}{join}{urlencode({'digest': digest})}",
            name,
            body=content,
            extra={"Content-Type": "application/octet-stream"},
            writes=True,
        )
        if answer.status != 201:
            raise self._wire.refusal(answer, where)

    def _location(self, answer: Answer, where: str, base: str) -> str:
        """Where the answer, which came from the URL `base`, says to go on."""
        stated = answer.headers.get("Location", "")
        field = f"{where}: Location"
        try:
            place = urljoin(base, stated)
        except ValueError:
            place = stated
        if place == base:
            raise Malformed("not a place", field=field, found=repr(stated)[:200])
        return _checked_url(place, field)

    # Who asks.

    def _request(
        self,
        method: str,
        path: str,
        name: OciName,
        *,
        limit: int = MAX_DOCUMENT,
        body: bytes | None = None,
        extra: dict[str, str] | None = None,
        writes: bool = False,
    ) -> Answer:
        """Send a request, whose answer has a body of at most `limit` bytes; see `_exchange`."""
        got = Whole(limit)
        return self._exchange(method, path, name, got, body=body, extra=extra, writes=writes)

    def _exchange(
        self,
        method: str,
        path: str,
        name: OciName,
        got: Body,
        *,
        resume: bool = False,
        body: bytes | None = None,
        extra: dict[str, str] | None = None,
        writes: bool = False,
    ) -> Answer:
        """Send a request, and again with what the registry demands to see, if it does."""
        scope = f"repository:{name.path}:{'pull,push' if writes else 'pull'}"

        def known() -> str | None:
            return self._authorizations.get(scope) or self._authorizations.get("")

        def send(wire: Wire, authorization: str | None) -> Answer:
            shown = {} if authorization is None else {"Authorization": authorization}
            sent = {**(extra or {}), **shown}
            return wire.exchange(method, path, str(name), got, resume=resume, body=body, extra=sent)

        if self._is_elsewhere(path):
            return send(self._anonymous, None)
        used = known()
        answer = send(self._wire, used)
        if answer.status == 401:
            with self._lock:
                # Others may have asked meanwhile.
                if known() == used:
                    self._authorize(answer, scope)
            answer = send(self._wire, known())
        return answer

    def _is_elsewhere(self, path: str) -> bool:
        """Whether a path is the URL of another server than the registry."""
        # The port of HTTPS goes without saying, and the case of a name says nothing.
        place = urlsplit(path).netloc.lower().removesuffix(":443")
        return path.startswith("https://") and place != self.host.removesuffix(":443")

    def _authorize(self, answer: Answer, scope: str) -> None:
        """Get what a 401 asks for."""
        challenge = Challenge.parse(answer.headers.get("WWW-Authenticate"), self.host)
        if challenge.scheme == "basic":
            if self._login is None or "" in self._authorizations:
                raise Rejected(
                    "the OCI registry demands a login",
                    field=self.host,
                    found="one that it does not know" if self._login else "none",
                    hint="log in as with docker; keeps and stewards show a certificate alone",
                )
            self._authorizations[""] = self._login.to_header()
            return
        realm = _checked_url(challenge.parameters.get("realm", ""), f"{self.host}: realm")
        query = {"scope": scope}
        if "service" in challenge.parameters:
            query["service"] = challenge.parameters["service"]
        join = "&" if urlsplit(realm).query else "?"
        shown = {} if self._login is None else {"Authorization": self._login.to_header()}
        where = f"{self.host}: token"
        answer = self._wire.request(
            "GET", f"{realm}{join}{urlencode(query)}", where, limit=MAX_DOCUMENT, extra=shown
        )
        if answer.status != 200:
            raise self._wire.refusal(answer, where)
        try:
            document = json.loads(answer.body)
            token = document.get("token") or document.get("access_token")
        except (ValueError, RecursionError, AttributeError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise Malformed("no token", field=where)
        self._authorizations[scope] = f"Bearer {token}"


def _checked_url(url: str, field: str) -> str:
    """Return `url` if it is an HTTPS URL that can be read.

    Raises:
        Malformed: it is not.
    """
    try:
        parts = urlsplit(url)
        # The port is read when it is asked for.
        is_url = url.startswith("https://") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise Malformed("not an HTTPS URL", field=field, found=repr(url[:200]))
    return url
