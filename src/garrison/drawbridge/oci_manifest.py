"""A package as an OCI artifact. Pure: values in, values out.

The artifact is that of the CNCF ("Wasm OCI Artifact Layout", version 0): an image manifest whose
config is `application/vnd.wasm.config.v0+json` and whose first layer is the module,
`application/wasm`. Further layers, which that layout permits, are the other files, and last the
content of the package's root directory, so that the manifest alone tells the workload's digest:
it is that layer's. All names stand in `org.opencontainers.image.title`. A signature stands in an
annotation of the manifest: that of a signed tag (`garrison.formats.signed_tag`).

Artifacts that others made are read too: without a root directory, the module is the one layer of
its type, whatever its title.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from garrison.errors import Malformed
from garrison.formats.tree import (
    DIRECTORY_TYPE,
    MAIN,
    MAX_FILES,
    MAX_PACKAGE,
    WASM_TYPE,
    max_length,
    media_type,
    parse_path,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.formats.tree import Package

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.wasm.config.v0+json"
# OCI image specification 1.1, "Pre-Defined Annotation Keys".
TITLE = "org.opencontainers.image.title"
# Of the manifest; its text is a signed tag, of the package's root directory.
SIGNATURE = "garrison.signed-tag"
# Registries take 4 MiB at most (distribution specification 1.1, "Pushing Manifests").
MAX_MANIFEST = 4 << 20
_PREFIX = "sha256:"
# A component's header has layer 1 where a module's has 0 (component model, Binary.md).
_COMPONENT = b"\0asm\x0d\0\x01\0"


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob: the SHA-256 of its content, 32 bytes, and its length."""

    digest: bytes
    size: int

    @property
    def reference(self) -> str:
        """The digest as registries write it."""
        return f"{_PREFIX}{self.digest.hex()}"


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a manifest says.

    Attributes:
        files: path to layer; `main.wasm` is among them.
        root: the package's root directory, whose digest is the workload's; None where whoever
            made the artifact put none there.
        signed: the annotation that signs it, not verified; None where there is none.
    """

    files: Mapping[str, Layer]
    root: Layer | None
    signed: bytes | None = None

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Artifact:
        """Read a manifest, called `where` in errors.

        Raises:
            Malformed: it is not that of a package.
        """
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Malformed("not JSON", field=where) from error
        kind = document.get("mediaType", MANIFEST_TYPE) if isinstance(document, dict) else None
        layers = document.get("layers") if isinstance(document, dict) else None
        if kind != MANIFEST_TYPE or not isinstance(layers, list):
            raise Malformed(
                "not an image manifest", field=where, found=repr(kind)[:100], expected=MANIFEST_TYPE
            )
        if len(layers) > MAX_FILES + 1:
            raise Malformed("too many layers", field=where, expected=f"at most {MAX_FILES + 1}")
        files: dict[str, Layer] = {}
        root, total = None, 0
        has_root = any(_type(item) == DIRECTORY_TYPE for item in layers)
        for item in layers:
            layer = _layer(item, where)
            if _type(item) == DIRECTORY_TYPE:
                if root is not None:
                    raise Malformed("more than one root directory", field=where)
                root = layer
                continue
            path = MAIN if not has_root and _type(item) == WASM_TYPE else _title(item, where)
            if path in files:
                raise Malformed("twice in one package", field=f"{where}: {path}")
            if _type(item) != media_type(path):
                raise Malformed(
                    "wrong media type",
                    field=f"{where}: {path}",
                    found=repr(_type(item))[:100],
                    expected=media_type(path),
                )
            total += layer.size
            limit = max_length(path, media_type(path))
            if layer.size > limit or total > MAX_PACKAGE:
                raise Malformed(
                    "too large",
                    field=f"{where}: {path}",
                    found=f"{layer.size} bytes, {total} in all",
                    expected=f"at most {limit}, {MAX_PACKAGE} in all",
                )
            files[path] = layer
        if MAIN not in files:
            raise Malformed("no layer of this type", field=where, expected=WASM_TYPE)
        return cls(files, root, _signature(document, where))


def build(package: Package, signed: bytes | None = None) -> tuple[bytes, dict[str, bytes]]:
    """The manifest of a package, and its blobs by their digests as registries write them.

    `signed` is the signed tag of the package, if it is to be signed.
    """
    blobs: dict[str, bytes] = {}

    def descriptor(
        kind: str, content: bytes, sha_256: bytes, title: str | None = None
    ) -> dict[str, Any]:
        digest = f"{_PREFIX}{sha_256.hex()}"
        blobs[digest] = content
        named = {} if title is None else {"annotations": {TITLE: title}}
        return {"mediaType": kind, "digest": digest, "size": len(content), **named}

    def node(path: str, title: str) -> dict[str, Any]:
        entry, content = package.nodes()[path]
        return descriptor(entry.type, content, entry.digest.values["sha-256"], title)

    others = sorted(path for path in package.files if path != MAIN)
    layers = [*(node(path, path) for path in (MAIN, *others)), node("", ".")]
    is_component = package.files[MAIN][: len(_COMPONENT)] == _COMPONENT
    config: dict[str, Any] = {
        "architecture": "wasm",
        "os": "wasip2" if is_component else "wasip1",
        # The same package is the same artifact, so that it can be pushed twice.
        "created": "1970-01-01T00:00:00Z",
        "layerDigests": [layer["digest"] for layer in layers],
        **({"component": {"exports": [], "imports": []}} if is_component else {}),
    }
    described = _dump(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, described, sha256(described).digest()),
        "layers": layers,
        **({"annotations": {SIGNATURE: signed.decode()}} if signed is not None else {}),
    }
    return _dump(manifest), blobs


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _type(item: object) -> object:
    return item.get("mediaType") if isinstance(item, dict) else None


def _layer(item: Any, where: str) -> Layer:
    digest, size = (
        (item.get("digest"), item.get("size")) if isinstance(item, dict) else (None, None)
    )
    text = digest.removeprefix(_PREFIX) if isinstance(digest, str) else ""
    if digest != f"{_PREFIX}{text}" or len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise Malformed("not a SHA-256 digest", field=f"{where}: layer", found=repr(digest)[:100])
    if type(size) is not int or not 0 <= size < 1 << 63:
        raise Malformed("not a size", field=f"{where}: layer", found=repr(size)[:40])
    return Layer(bytes.fromhex(text), size)


def _signature(document: dict[str, Any], where: str) -> bytes | None:
    annotations = document.get("annotations")
    if not isinstance(annotations, dict) or SIGNATURE not in annotations:
        return None
    signed = annotations[SIGNATURE]
    if not isinstance(signed, str) or not signed.isascii():
        raise Malformed(
            "not a signed tag", field=f"{where}: {SIGNATURE}", found=repr(signed)[:100],
            expected="JWS JSON serialization",
        )  # fmt: skip
    return signed.encode()


def _title(item: Any, where: str) -> str:
    annotations = item.get("annotations")
    title = annotations.get(TITLE) if isinstance(annotations, dict) else None
    if not isinstance(title, str) or not title:
        raise Malformed("a layer without a name", field=where, expected=f"annotation {TITLE}")
    parse_path(title)
    return title
