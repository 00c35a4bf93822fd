"""Endorsements in one file, for stewards that fetch nothing.

A tar file (POSIX ustar) that any tool opens and that is the same, byte for byte, for the same
documents: first `manifest.json`, then the files of a cache as they are, by name, each with mode
0644, owner 0 and time 0.

    {"files": {"<name>": "<SHA-256, hex>", ...}, "version": 1}

The bundle is transport and no more: it is not signed, and its content is judged by the
verifier like all else. It refuses every file that `to_bytes` would not write: other names, paths,
links, duplicates, other owners, bytes behind the end.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.endorsements import kds
from garrison.endorsements.cache import MAX_ENTRY, Entry
from garrison.endorsements.catalogue import identify
from garrison.endorsements.resource import Kind
from garrison.errors import Malformed, Misuse, Unverified
from garrison.formats._der import check_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from garrison.endorsements.cache import Cache

# A steward of some thousand machines has a document of 3 KB for each.
MAX_BUNDLE = 64 << 20
MAX_FILES = 8192
_MANIFEST = "manifest.json"
_MAX_MANIFEST = 256 * MAX_FILES
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Bundle:
    """The documents of a bundle, by name."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Bundle:
        """A bundle of `entries`.

        Raises:
            Misuse: there are too many.
        """
        found = tuple(sorted(entries, key=lambda entry: entry.name))
        if len(found) > MAX_FILES:
            raise Misuse("too many documents for one bundle", found=len(found), expected=MAX_FILES)
        return cls(found)

    @classmethod
    def from_bytes(cls, data: bytes) -> Bundle:
        """Read a bundle.

        Raises:
            Malformed: it is not exactly as `to_bytes` writes it, or holds anything but documents
                of vendors.
            Unverified: a document differs from what the manifest says.
        """
        check_size(data, MAX_BUNDLE, "bundle")
        files = _files(data)
        digests = _manifest(files.pop(_MANIFEST, None))
        if set(files) != set(digests):
            differing = sorted(set(files) ^ set(digests))
            raise Malformed("not the files of the manifest", field="bundle", found=differing[0])
        entries = []
        for name, content in files.items():
            digest = hashlib.sha256(content).hexdigest()
            if digest != digests[name]:
                raise Unverified(
                    "wrong digest", field=f"bundle: {name}", found=digest, expected=digests[name]
                )
            entry = Entry.from_bytes(content)
            if entry.name != name or identify(entry.url).resource.kind is not entry.kind:
                raise Malformed("not the document of its name", field=f"bundle: {name}")
            if entry.kind is Kind.VEK:
                kds.check_vcek(entry.url, entry.document.body)
            entries.append(entry)
        bundle = cls(tuple(entries))
        if bundle.to_bytes() != data:
            raise Malformed("not as `export` writes it", field="bundle")
        return bundle

    def to_bytes(self) -> bytes:
        """Write the bundle."""
        files = {entry.name: entry.to_bytes() for entry in self.entries}
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        manifest = json.dumps({"files": digests, "version": _VERSION}, indent=1, sort_keys=True)
        output = io.BytesIO()
        with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in {_MANIFEST: manifest.encode("ascii"), **files}.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return output.getvalue()


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did, each a list of URLs.

    Attributes:
        added: were not there, or older.
        unchanged: were there already.
        kept: were there in a later version, which stayed.
    """

    added: list[str]
    unchanged: list[str]
    kept: list[str]


def put(bundle: Bundle, cache: Cache, *, force: bool = False) -> Imported:
    """Put the documents of `bundle` into `cache`.

    Args:
        bundle: the bundle.
        cache: where to.
        force: whether to replace later documents by earlier ones.

    Raises:
        OSError: the disk is full, or the like; what was put stays.
    """
    done = Imported([], [], [])
    for entry in bundle.entries:
        with cache.locked(entry.kind, entry.url, 60):
            there = cache.read(entry.kind, entry.url)
            if there is not None and there.document == entry.document:
                done.unchanged.append(entry.url)
            elif there is not None and not force and entry.dates().issued < there.dates().issued:
                done.kept.append(entry.url)
            else:
                cache.write(entry)
                done.added.append(entry.url)
    return done


def _files(data: bytes) -> dict[str, bytes]:
    """The regular files in the tar file `data`."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            while (member := tar.next()) is not None:
                source = tar.extractfile(member) if member.isreg() else None
                if source is None or member.name in files or member.size > _limit(member.name):
                    raise Malformed(
                        "not a small file, or there twice",
                        field="bundle",
                        found=repr(member.name[:100]),
                    )
                if len(files) > MAX_FILES:
                    raise Malformed("too many files", field="bundle", expected=MAX_FILES)
                files[member.name] = source.read()
    except (tarfile.TarError, ValueError, OSError, OverflowError, RecursionError) as error:
        raise Malformed("not a tar file", field="bundle") from error
    return files


def _limit(name: str) -> int:
    return _MAX_MANIFEST if name == _MANIFEST else MAX_ENTRY


def _manifest(data: bytes | None) -> dict[str, str]:
    try:
        manifest = json.loads(data or b"")
        version, files = manifest["version"], dict(manifest["files"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Malformed("no manifest", field="bundle", expected=_MANIFEST) from error
    if version != _VERSION:
        raise Malformed(
            "another version", field="bundle", found=repr(version)[:20], expected=_VERSION
        )
    return files
