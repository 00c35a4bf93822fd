"""What an image is made of, for people and for scanners: a list of packages, and SPDX 2.3.

SPDX: https://spdx.github.io/spdx-spec/v2.3/. Package URLs: https://github.com/package-url/purl-spec.
Licences are not asserted: a package of Debian has many, and its `copyright` file names them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import garrison

if TYPE_CHECKING:
    from garrison.image.contents import Contents
    from garrison.image.lock import Input, Lock

GARRISON = "garrison"
_WHY = "the keep itself"


def packages(lock: Lock, contents: Contents) -> list[dict[str, Any]]:
    """Each package with its reason, and how many files and bytes of it are in the image."""
    files: dict[str, list[int]] = {}
    for path, origin in contents.origins.items():
        files.setdefault(origin, []).append(len(contents.tree[path].content))
    for origin, content in contents.beside.items():
        files.setdefault(origin, []).append(len(content))
    result = [
        {
            "name": item.name,
            "version": item.version,
            "kind": kind,
            "sha256": item.sha256,
            "files": len(files.get(item.name, ())),
            "bytes": sum(files.get(item.name, ())),
            "why": item.why,
        }
        for kind, items in (("deb", lock.packages), ("pypi", lock.wheels))
        for item in items
    ]
    own = files.get(GARRISON, [])
    return [
        {
            "name": GARRISON,
            "version": garrison.__version__,
            "kind": GARRISON,
            "files": len(own),
            "bytes": sum(own),
            "why": _WHY,
        },
        *result,
    ]


def spdx(lock: Lock, about: dict[str, Any]) -> dict[str, Any]:
    """The image as an SPDX document."""
    digest = about["digest"].partition(":")[2]
    created = datetime.fromtimestamp(lock.source_date_epoch, UTC)
    image = {
        "SPDXID": "SPDXRef-image",
        "name": "garrison-keep-image",
        "versionInfo": garrison.__version__,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "checksums": [{"algorithm": "SHA256", "checksumValue": digest}],
    }
    own = {
        "SPDXID": "SPDXRef-garrison",
        "name": GARRISON,
        "versionInfo": garrison.__version__,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "comment": _WHY,
    }
    there = {each["name"] for each in about["packages"] if each["files"]}
    debs = [each for each in lock.packages if each.name in there]
    wheels = [each for each in lock.wheels if each.name in there]
    parts = [
        own,
        *(_package(each, "deb", f"debian/{each.name}", lock.suite) for each in debs),
        *(_package(each, "pypi", each.name, "") for each in wheels),
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "garrison-keep-image",
        # Unique, as it must be, and resolving to nothing, as it may.
        "documentNamespace": f"urn:sha256:{digest}",
        "creationInfo": {
            "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: garrison-{garrison.__version__}"],
        },
        "packages": [image, *parts],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"),
            *(_relation("SPDXRef-image", "CONTAINS", each["SPDXID"]) for each in parts),
        ],
    }


def _package(item: Input, kind: str, name: str, suite: str) -> dict[str, Any]:
    # The specification's one form: a plus is encoded, also in a name, and a colon is not.
    url = f"pkg:{kind}/{quote(name)}@{quote(item.version, safe=':')}"
    if suite:
        url += f"?arch=amd64&distro={suite}"
    return {
        "SPDXID": f"SPDXRef-{kind}-{item.name.replace('+', '.').replace('_', '-')}",
        "name": item.name,
        "versionInfo": item.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "comment": item.why,
        "checksums": [{"algorithm": "SHA256", "checksumValue": item.sha256}],
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": url,
            }
        ],
    }


def _relation(subject: str, kind: str, other: str) -> dict[str, str]:
    return {
        "spdxElementId": subject,
        "relationshipType": kind,
        "relatedSpdxElement": other,
    }
