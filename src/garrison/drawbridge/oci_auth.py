"""How a client says who it is to an OCI registry: as docker's clients do.

A registry that wants to know answers 401 with a challenge: `Basic`, or `Bearer` with the realm
where a token is to be had (distribution registry, "Token Authentication Specification"). Names and
passwords are docker's own: `config.json` in `$DOCKER_CONFIG` or `~/.docker`, and the credential
helpers that it names. No secret is in an error.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from garrison.errors import Malformed, Misuse, Unavailable

# RFC 9110, section 11.6.1: there may be several, with commas between them as between parameters.
_CHALLENGE = re.compile(r"(?:^|,)\s*(basic|bearer)\s+", re.IGNORECASE)
_PARAMETER = re.compile(
    r'([A-Za-z_]+)\s*=\s*(?:"([^"\x00-\x1f]{0,1024})"|([!#-+.-:^_`|~0-9A-Za-z-]{1,1024}))'
)
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HELPER_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry asks for: the scheme in lower case, and its parameters."""

    scheme: str
    parameters: dict[str, str]

    @classmethod
    def parse(cls, header: str | None, where: str) -> Challenge:
        """Read `WWW-Authenticate`; `where` is what errors call the registry.

        Of several challenges it is that for a token, as with docker's clients.

        Raises:
            Malformed: it is neither Basic nor Bearer.
        """
        text = (header or "")[:4096]
        found = list(_CHALLENGE.finditer(text))
        if not found:
            raise Malformed(
                "unknown way to authenticate",
                field=f"{where}: WWW-Authenticate",
                found=repr(header)[:100],
                expected="Basic or Bearer",
            )
        ends = [*(match.start() for match in found[1:]), len(text)]
        challenges = {
            match[1].lower(): {
                name.lower(): quoted or plain
                for name, quoted, plain in _PARAMETER.findall(text[match.end() : end])
            }
            for match, end in zip(found, ends, strict=True)
        }
        scheme = "bearer" if "bearer" in challenges else "basic"
        return cls(scheme, challenges[scheme])


@dataclass(frozen=True, slots=True)
class Login:
    """A name and a password."""

    name: str
    password: str

    def to_header(self) -> str:
        """The value of `Authorization`."""
        return f"Basic {b64encode(f'{self.name}:{self.password}'.encode()).decode()}"


def docker_login(host: str) -> Login | None:
    """The user's login for the registry `host`, None if there is none.

    Raises:
        Malformed: docker's configuration cannot be read.
        Unavailable: the credential helper that it names fails.
    """
    given = os.environ.get("DOCKER_CONFIG")
    try:
        folder = Path(given) if given else Path.home() / ".docker"
    except RuntimeError:
        # A user without a home, as in containers.
        return None
    path = folder / "config.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Misuse(f"cannot be read: {error.strerror}", field=str(path)) from error
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field=str(path)) from error
    if not isinstance(config, dict):
        raise Malformed("not an object", field=str(path))
    helper = _object(config, "credHelpers").get(host) or config.get("credsStore")
    if helper is not None:
        return _from_helper(helper, host, path)
    logins = _object(config, "auths")
    entry = next((logins[key] for key in (host, f"https://{host}") if key in logins), None)
    if not isinstance(entry, dict) or "auth" not in entry:
        return None
    try:
        text = b64decode(entry["auth"], validate=True).decode()
    except (ValueError, TypeError):
        text = ""
    name, colon, password = text.partition(":")
    if not colon:
        # What it is instead may be the secret.
        raise Malformed("not NAME:PASSWORD in base64", field=f"{path}: auths {host} auth")
    return Login(name, password)


def _object(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _from_helper(helper: object, host: str, path: Path) -> Login | None:
    if not isinstance(helper, str) or _HELPER_NAME.fullmatch(helper) is None:
        raise Malformed("not a credential helper", field=str(path), found=repr(helper)[:80])
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=host,
            capture_output=True,
            text=True,
            timeout=_HELPER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"cannot be run: {type(error).__name__}", field=program) from error
    if done.returncode != 0:
        # "credentials not found" is said so, in the helpers' one language.
        if "not found" in done.stdout:
            return None
        raise Unavailable(f"ended with {done.returncode}", field=program)
    try:
        answer = json.loads(done.stdout)
        return Login(str(answer["Username"]), str(answer["Secret"]))
    except (ValueError, KeyError, TypeError):
        raise Malformed("not a login", field=program, expected="Username and Secret") from None
