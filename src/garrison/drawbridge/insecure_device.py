"""Development only: the device authorization flow (RFC 8628) of the insecure issuer.

A device asks for a code, and shows it; whoever has the issuer's secret says on a page as whom the
device is logged in; the device, which asks again and again, gets its token once. What is pending
is kept in files, so that all workers of the service know it. It refuses more than a bounded number
of pending codes, a code of another client, and a code used twice.
"""

from __future__ import annotations

import html
import json
import secrets
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from garrison.disk import write_whole
from garrison.errors import Rejected, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
INTERVAL_SECONDS = 1
LIFETIME_SECONDS = 600
# RFC 8628, section 6.1: no vowels, so no words, and nothing that looks like something else.
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
# It is for one developer; a loop that asks and asks must not fill the disk.
_MAX_PENDING = 100


@dataclass(frozen=True, slots=True)
class Pending:
    """A device that waits.

    Attributes:
        user_code: what the user reads off the device.
        client_id: of the device.
        scopes: that it asks for.
        expires: when it is forgotten, in seconds since 1970.
        subject: as whom it is logged in, once somebody said so.
        denied: whether somebody said no.
    """

    user_code: str
    client_id: str
    scopes: tuple[str, ...]
    expires: int
    subject: str | None = None
    denied: bool = False


class GrantError(Exception):
    """A device gets no token now; the text is the code of RFC 8628, section 3.5."""


class DeviceGrants:
    """The devices that wait, a file each in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def begin(self, client_id: str, scopes: frozenset[str], now: int) -> tuple[str, Pending]:
        """A new device code, and what is pending under it.

        Raises:
            Unavailable: too many are pending.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        if len(self._all(now)) >= _MAX_PENDING:
            raise Unavailable("too many logins are pending", field="device")
        letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
        pending = Pending(
            f"{letters[:4]}-{letters[4:]}",
            client_id,
            tuple(sorted(scopes)),
            now + LIFETIME_SECONDS,
        )
        code = secrets.token_urlsafe(32)
        self._write(self._path(code), pending)
        return code, pending

    def decide(self, user_code: str, subject: str | None, now: int) -> None:
        """Log the device that shows `user_code` in as `subject`, or not, if it is None.

        Raises:
            Rejected: no device waits with this code.
        """
        wanted = "".join(user_code.upper().split()).replace("-", "")
        for path, pending in self._all(now):
            waits = pending.subject is None and not pending.denied
            if waits and pending.user_code.replace("-", "") == wanted:
                self._write(path, replace(pending, subject=subject, denied=subject is None))
                return
        raise Rejected("no device waits with this code", field="user_code")

    def take(self, code: str, client_id: str, now: int) -> Pending:
        """What the device is granted, once.

        Raises:
            GrantError: nothing, or not yet.
        """
        path = self._path(code)
        pending = self._read(path)
        if pending is None or pending.client_id != client_id:
            # Section 5.2 of RFC 6749: unknown, or issued to another client.
            raise GrantError("invalid_grant")
        if pending.expires <= now:
            path.unlink(missing_ok=True)
            raise GrantError("expired_token")
        if not pending.denied and pending.subject is None:
            raise GrantError("authorization_pending")
        try:
            path.unlink()
        except FileNotFoundError:
            # Another worker gave it out a moment ago.
            raise GrantError("invalid_grant") from None
        if pending.denied:
            raise GrantError("access_denied")
        return pending

    def _path(self, code: str) -> Path:
        return self._directory / f"{sha256(code.encode()).hexdigest()}.json"

    def _all(self, now: int) -> list[tuple[Path, Pending]]:
        """What is pending; what is too old is removed."""
        found = []
        for path in self._directory.glob("*.json"):
            pending = self._read(path)
            if pending is not None and pending.expires > now:
                found.append((path, pending))
            else:
                path.unlink(missing_ok=True)
        return found

    @staticmethod
    def _read(path: Path) -> Pending | None:
        try:
            value = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        return Pending(**value | {"scopes": tuple(value["scopes"])})

    @staticmethod
    def _write(path: Path, pending: Pending) -> None:
        write_whole(path, json.dumps(asdict(pending)).encode())


def page(action: str, user_code: str, message: str) -> str:
    """The page on which a user logs a device in."""
    return f"""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Insecure development login</title>
<h1>Insecure development login</h1>
<p>{html.escape(message)}</p>
<form method="post" action="{html.escape(action)}">
<p><label>Code on the device <input name="user_code" value="{html.escape(user_code)}"></label>
<p><label>Log in as <input name="subject"></label>
<p><label>Secret of this issuer <input name="client_secret" type="password"></label>
<p><button name="decision" value="allow">Log in</button>
<button name="decision" value="deny">Refuse</button>
</form></html>
"""
