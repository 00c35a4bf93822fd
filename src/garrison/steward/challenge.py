"""Challenges that prove that evidence is fresh, without the steward remembering any.

    version (1) | expiry, seconds since 1970, big-endian (8) | random (16) | MAC (32)

The MAC is HMAC-SHA256, under a key that all replicas of a steward share, over a label and all
that stands before it. A challenge can be used more than once until it expires: evidence is
bound to the challenge and to the key, so a request repeated by somebody else yields at most
another certificate for a key that he does not have.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from garrison.errors import Malformed, Rejected, Unverified
from garrison.formats.challenge_wire import Offer

KEY_SIZE = 32
# Long enough for a slow TEE to make evidence, short enough that stolen evidence is stale.
LIFETIME = timedelta(minutes=5)

_VERSION = b"\x01"
_LABEL = b"garrison steward challenge\x00"
_EXPIRY_END = 9
_RANDOM_SIZE = 16
_MAC_START = _EXPIRY_END + _RANDOM_SIZE
_SIZE = _MAC_START + 32
# What replicas' clocks may differ by.
_SKEW = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Challenges:
    """Issues and checks challenges under `key` (`KEY_SIZE` random bytes)."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != KEY_SIZE:
            raise Malformed(
                "wrong length",
                field="challenge key",
                found=f"{len(self.key)} bytes",
                expected=f"{KEY_SIZE} bytes",
            )

    def issue(self, now: datetime) -> Offer:
        """Make a challenge that is good for `LIFETIME` from `now`."""
        expires = datetime.fromtimestamp(int((now + LIFETIME).timestamp()), UTC)
        body = b"".join(
            (
                _VERSION,
                int(expires.timestamp()).to_bytes(8, "big"),
                secrets.token_bytes(_RANDOM_SIZE),
            )
        )
        return Offer(body + self._mac(body), expires)

    def check(self, challenge: bytes, now: datetime) -> None:
        """Check that this steward issued `challenge` and that it is still good.

        Raises:
            Malformed: it does not have the form of a challenge of this steward.
            Unverified: its MAC is wrong: it was made or changed by somebody else.
            Rejected: it has expired.
        """
        if len(challenge) != _SIZE or challenge[:1] != _VERSION:
            raise Malformed(
                "not a challenge of this steward",
                field="challenge",
                found=f"{len(challenge)} bytes, version {challenge[:1].hex() or 'missing'}",
                expected=f"{_SIZE} bytes, version {_VERSION.hex()}",
            )
        body, mac = challenge[:_MAC_START], challenge[_MAC_START:]
        if not hmac.compare_digest(mac, self._mac(body)):
            raise Unverified(
                "not issued by this steward",
                field="challenge",
                hint="ask the same steward for a challenge that is to issue the certificate",
            )
        # Only after the MAC: these are now our own words.
        expires = int.from_bytes(body[1:_EXPIRY_END], "big")
        seconds = now.timestamp()
        if not expires - (LIFETIME + _SKEW).total_seconds() <= seconds < expires:
            raise Rejected(
                "expired",
                field="challenge",
                found=f"good until {_moment(expires)}",
                expected=f"good at {_moment(int(seconds))}",
                hint="ask for a new challenge, and make new evidence with it",
            )

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self.key, _LABEL + body, "sha256")


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
