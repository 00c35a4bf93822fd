"""SHA-256 digests of workloads, as people and certificates write them.

A workload's digest is the SHA-256 of the content of its tag's root tree entry. It is 32
bytes everywhere in the code; in text it is unpadded standard base64 (in a common name,
unpadded URL-safe base64; in a SPIFFE path, lower-case hex).
"""

from __future__ import annotations

import binascii
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode

from garrison.errors import Malformed

SHA256_SIZE = 32


def digest_text(digest: bytes) -> str:
    """Write `digest` (32 bytes) as unpadded standard base64, 43 characters."""
    return b64encode(digest).rstrip(b"=").decode("ascii")


def digest_url_text(digest: bytes) -> str:
    """Write `digest` (32 bytes) as unpadded URL-safe base64, 43 characters."""
    return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def parse_digest(text: str, *, field: str = "digest") -> bytes:
    """Read a digest in unpadded standard base64.

    Only the one canonical encoding is accepted: no padding, no URL-safe alphabet, no stray
    bits in the last character.

    Raises:
        Malformed: `text` is anything else.
    """
    try:
        digest = binascii.a2b_base64(text.encode("ascii") + b"=", strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        digest = b""
    if len(digest) != SHA256_SIZE or digest_text(digest) != text:
        raise Malformed(
            "not a SHA-256 digest",
            field=field,
            found=repr(text[:64]),
            expected="43 characters of unpadded standard base64",
        )
    return digest


def parse_digest_url(text: str, *, field: str = "digest") -> bytes:
    """Read a digest in unpadded URL-safe base64, as a common name holds it.

    Raises:
        Malformed: `text` is anything else.
    """
    try:
        digest = urlsafe_b64decode(text.encode("ascii") + b"=")
    except (ValueError, UnicodeEncodeError):
        digest = b""
    if len(digest) != SHA256_SIZE or digest_url_text(digest) != text:
        raise Malformed(
            "not a SHA-256 digest",
            field=field,
            found=repr(text[:64]),
            expected="43 characters of unpadded URL-safe base64",
        )
    return digest
