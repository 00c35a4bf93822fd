"""The answer of a steward's `GET /challenge`, JSON: the challenge, and until when it is good.

    {"challenge": "<base64url without padding>", "expires": "<RFC 3339, UTC>"}

To a keep the challenge is opaque bytes, which go into the report data and back to the steward.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime

from garrison.errors import Malformed

# A challenge is hashed and sent back in a request: a steward has no reason to make it longer.
MAX_CHALLENGE = 256
# The answer holds a challenge and a time.
MAX_ANSWER = 2048
_EXPIRES_FORM = "%Y-%m-%dT%H:%M:%SZ"


def encode_challenge(challenge: bytes) -> str:
    """Write a challenge as text: base64url without padding."""
    return urlsafe_b64encode(challenge).rstrip(b"=").decode("ascii")


def decode_challenge(text: str) -> bytes:
    """Read a challenge from text.

    Raises:
        Malformed: `text` is not the one encoding of 1 to `MAX_CHALLENGE` bytes.
    """
    try:
        data = b"" if len(text) > 2 * MAX_CHALLENGE else urlsafe_b64decode(text + "=" * 3)
    except ValueError:
        data = b""
    if not 0 < len(data) <= MAX_CHALLENGE or encode_challenge(data) != text:
        raise Malformed(
            "not a challenge",
            field="challenge",
            found=repr(text[:80]),
            expected=f"1 to {MAX_CHALLENGE} bytes in base64url without padding",
        )
    return data


@dataclass(frozen=True, slots=True)
class Offer:
    """A challenge that a steward offers, good until `expires`."""

    challenge: bytes
    expires: datetime

    @classmethod
    def from_bytes(cls, data: bytes) -> Offer:
        """Read the body of the answer.

        Raises:
            Malformed: `data` is anything else.
        """
        try:
            values = {} if len(data) > MAX_ANSWER else json.loads(data.decode("ascii"))
        except (ValueError, RecursionError):
            values = {}
        challenge = values.get("challenge") if isinstance(values, dict) else None
        expires = values.get("expires") if isinstance(values, dict) else None
        if not isinstance(challenge, str) or not isinstance(expires, str):
            raise Malformed(
                "not an offer of a challenge",
                field="answer to GET /challenge",
                found=repr(data[:80]),
                expected='{"challenge": "...", "expires": "..."}',
            )
        try:
            until = datetime.strptime(expires, _EXPIRES_FORM).replace(tzinfo=UTC)
            # One form of each time: the library reads others, too.
            if until.strftime(_EXPIRES_FORM) == expires:
                return cls(decode_challenge(challenge), until)
        except ValueError:
            pass
        raise Malformed(
            "not a time",
            field="expires",
            found=repr(expires[:40]),
            expected="RFC 3339, UTC, whole seconds",
        )

    def to_bytes(self) -> bytes:
        """Write the body of the answer."""
        return json.dumps(
            {
                "challenge": encode_challenge(self.challenge),
                "expires": self.expires.astimezone(UTC).strftime(_EXPIRES_FORM),
            },
            separators=(",", ":"),
        ).encode("ascii")
