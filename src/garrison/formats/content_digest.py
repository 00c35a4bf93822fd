"""`Content-Digest`: the digests of a body, as the original drawbridge writes them.

In a header: `sha-224=:B64:,sha-256=:B64:,...`, comma separated, where names are read in any case;
in JSON an object of the same names. Base64 is standard and padded. The four algorithms are all
SHA-2; each of those that are given is checked, and an unknown one is refused.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re
from base64 import b64encode
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from garrison.errors import Malformed, Unverified

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

# The names of draft-ietf-httpbis-digest-headers, and hashlib's.
ALGORITHMS = {"sha-224": "sha224", "sha-256": "sha256", "sha-384": "sha384", "sha-512": "sha512"}
_ITEM = re.compile(r"([A-Za-z0-9-]{1,20})=:([A-Za-z0-9+/=]{0,128}):")
# Four of the longest items are 450 characters.
_MAX_HEADER = 1024
# From here on threads cost less than they save: `hashlib` works without the interpreter's lock.
_WORTH_THREADS = 1 << 20
# The two of 32 bit words are together faster than either of the others, where the processor has
# instructions for them: more threads would have nothing to do.
_THREADS = 3
# The longest first, so that threads that take one after the other end together.
_BY_DURATION = ("sha-384", "sha-512", "sha-224", "sha-256")


@dataclass(frozen=True, slots=True)
class ContentDigest:
    """Digests of one content: algorithm to bytes, at least one, in the order of `ALGORITHMS`."""

    values: Mapping[str, bytes]

    @classmethod
    def of(cls, content: bytes) -> ContentDigest:
        """All four digests of `content`."""
        hasher = ContentHasher()
        if len(content) < _WORTH_THREADS:
            hasher.update(content)
        else:
            # Late: a start with a small module does without.
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0)))) as threads:
                list(threads.map(lambda job: job(), hasher.jobs([content])))
        return hasher.digest()

    @classmethod
    def from_header(cls, text: str, field: str = "Content-Digest") -> ContentDigest:
        """Read the header's value, called `field` in errors.

        Raises:
            Malformed: it is anything but known algorithms, each once, with digests of their size.
        """
        if len(text) > _MAX_HEADER:
            raise Malformed("too long", field=field, expected=f"at most {_MAX_HEADER} characters")
        found: dict[str, str] = {}
        for item in text.split(","):
            match = _ITEM.fullmatch(item.strip(" \t"))
            if match is None or match[1].lower() in found:
                raise Malformed(
                    "unreadable", field=field, found=repr(item[:80]), expected="ALGORITHM=:BASE64:"
                )
            found[match[1].lower()] = match[2]
        return cls._checked(found, field)

    @classmethod
    def from_json(cls, value: object, field: str = "digest") -> ContentDigest:
        """Read the JSON form.

        Raises:
            Malformed: as for `from_header`.
        """
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise Malformed("not an object of strings", field=field)
        return cls._checked(value, field)

    @classmethod
    def _checked(cls, found: Mapping[str, str], field: str) -> ContentDigest:
        if not found:
            raise Malformed("no digest", field=field, expected=" | ".join(ALGORITHMS))
        values: dict[str, bytes] = {}
        for name, text in found.items():
            if name not in ALGORITHMS:
                raise Malformed(
                    "unknown algorithm",
                    field=field,
                    found=repr(name[:80]),
                    expected=" | ".join(ALGORITHMS),
                )
            try:
                value = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
            except (ValueError, UnicodeEncodeError):
                value = b""
            size = hashlib.new(ALGORITHMS[name]).digest_size
            if len(value) != size or b64encode(value).decode() != text:
                raise Malformed(
                    "not a digest",
                    field=f"{field} {name}",
                    found=repr(text[:100]),
                    expected=f"{size} bytes in padded base64",
                )
            values[name] = value
        return cls({name: values[name] for name in ALGORITHMS if name in values})

    def to_header(self) -> str:
        """Write the header's value."""
        return ",".join(f"{name}=:{text}:" for name, text in self.to_json().items())

    def to_json(self) -> dict[str, str]:
        """Write the JSON form."""
        return {name: b64encode(value).decode() for name, value in self.values.items()}

    def check(self, actual: ContentDigest, field: str) -> None:
        """Compare with the `actual` digests, which must have all of these algorithms.

        Raises:
            Unverified: one differs.
        """
        # The sha-256 first: by it people know a workload.
        for name, value in sorted(self.values.items(), key=lambda item: item[0] != "sha-256"):
            if actual.values.get(name) != value:
                raise Unverified(
                    f"{name} digest mismatch",
                    field=field,
                    found=actual.to_json().get(name),
                    expected=self.to_json()[name],
                )


class ContentHasher:
    """Computes digests, all four or some, and the length, of a content that comes in pieces."""

    def __init__(self, algorithms: Collection[str] = frozenset(ALGORITHMS)) -> None:
        self._hashes = {
            name: hashlib.new(known) for name, known in ALGORITHMS.items() if name in algorithms
        }
        self.length = 0

    def update(self, piece: bytes | memoryview) -> None:
        """Take the next piece."""
        self.length += len(piece)
        for value in self._hashes.values():
            value.update(piece)

    def jobs(self, pieces: Sequence[bytes | memoryview]) -> list[Callable[[], None]]:
        """Take the next pieces by calling all of these, in any order or in threads at once.

        There is one for each algorithm; the longest come first.
        """
        self.length += sum(map(len, pieces))
        return [
            partial(_update, self._hashes[name], pieces)
            for name in _BY_DURATION
            if name in self._hashes
        ]

    def digest(self) -> ContentDigest:
        """The digests of all that came."""
        return ContentDigest({name: value.digest() for name, value in self._hashes.items()})


def _update(value: hashlib._Hash, pieces: Sequence[bytes | memoryview]) -> None:
    for piece in pieces:
        value.update(piece)
