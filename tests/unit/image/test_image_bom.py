"""The bill of materials: each package under the one name that scanners look it up by."""

from __future__ import annotations

from garrison.image import bom
from garrison.image.lock import Input, Lock


def test_package_urls_are_in_their_one_form() -> None:
    """As packageurl-python 0.17 writes them: a plus is encoded, a colon is not."""
    kernel = Input("linux-image-6.12.1+deb13-cloud", "6.12.1-1", "p", "0" * 64, 1, "why")
    zlib = Input("zlib1g", "1:1.3.dfsg+really1.3.1-1~b", "p", "0" * 64, 1, "why")
    wheel = Input("certifi", "2026.1.1", "p", "0" * 64, 1, "why")
    lock = Lock("trixie", 1, (kernel, zlib), (wheel,))
    items = [{"name": each.name, "files": 1} for each in (kernel, zlib, wheel)]
    document = bom.spdx(lock, {"digest": "sha256:00", "packages": items})
    assert [each["externalRefs"][0]["referenceLocator"] for each in document["packages"][2:]] == [
        "pkg:deb/debian/linux-image-6.12.1%2Bdeb13-cloud@6.12.1-1?arch=amd64&distro=trixie",
        "pkg:deb/debian/zlib1g@1:1.3.dfsg%2Breally1.3.1-1~b?arch=amd64&distro=trixie",
        "pkg:pypi/certifi@2026.1.1",
    ]
