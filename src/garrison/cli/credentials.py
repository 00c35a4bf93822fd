"""The user's tokens: one a drawbridge, in the system's keyring where there is one.

Which drawbridges there are, and where the token of each is, stands in `garrison/tokens.json` below
`$XDG_CONFIG_HOME` (`~/.config`), mode 0600, replaced as a whole: `null` for the keyring, the two
words of a credential helper as the original has them, or the token itself, where there is neither.
A file that others could have read or written is refused, not used.

The keyring is that of the session's D-Bus (the Secret Service), or whatever
`$PYTHON_KEYRING_BACKEND` names. Its library is loaded only for a token that is there: it takes
longer than most commands.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from garrison.disk import write_whole
from garrison.errors import Malformed, Misuse, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_SERVICE = "garrison"
_KEYRING = "the system's keyring"
_BACKEND = "PYTHON_KEYRING_BACKEND"
# An agent may ask its user something.
_HELPER_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Helper:
    """A program that keeps a token: `PROGRAM show ID` prints it, `PROGRAM insert ID` reads it."""

    program: str
    id: str


# Where a token is: in the keyring, with a helper, or here.
_Kept = None | Helper | str


def tokens_file() -> Path:
    """Where the tokens are kept.

    Raises:
        Misuse: the user has no home.
    """
    base = _configuration()
    if base is None:
        raise Misuse("no such directory", field="HOME", hint="set it, or XDG_CONFIG_HOME")
    return base / "garrison" / "tokens.json"


def _configuration() -> Path | None:
    """The directory of the user's configuration; None for who has no home, as in containers."""
    if given := os.environ.get("XDG_CONFIG_HOME"):
        return Path(given)
    try:
        return Path.home() / ".config"
    except RuntimeError:
        return None


def load_token(host: str) -> str | None:
    """The token for the drawbridge `host`, None if the user is not logged in there.

    Raises:
        Misuse: the file is another user's, or others may read or write it.
        Malformed: it does not hold tokens.
        Unavailable: the keyring or the helper does not give the token.
    """
    if _configuration() is None:
        return None
    tokens = _load(tokens_file())
    if host not in tokens:
        return None
    kept = tokens[host]
    if isinstance(kept, str):
        return kept
    token = _from_keyring(host) if kept is None else _run(kept, "show", None).strip()
    if not token:
        raise Unavailable(
            "the token is not where it was put",
            field=host,
            found="" if kept is not None else f"nothing in {_KEYRING}",
            hint="log in again",
        )
    return token


def store_token(host: str, token: str | None, helper: Helper | None = None) -> str:
    """Keep `token` for the drawbridge `host`, or forget it if it is None.

    Args:
        host: the drawbridge.
        token: the token.
        helper: who keeps it; None for the keyring or, where there is none, the file.

    Returns:
        Where it is now, in words.

    Raises:
        Misuse: as `load_token`; the others too.
    """
    path = tokens_file()
    tokens = _load(path)
    if token is None:
        if host not in tokens:
            return str(path)
        if tokens[host] is None:
            _forget_in_keyring(host)
        with _changing(path) as current:
            current.pop(host, None)
        return str(path)
    kept: _Kept
    if helper is not None:
        _run(helper, "insert", token)
        kept, where = helper, helper.program
    elif _to_keyring(host, token):
        kept, where = None, _KEYRING
    else:
        kept, where = token, str(path)
    with _changing(path) as current:
        current[host] = kept
    return where


# The keyring.


def _keyring() -> ModuleType | None:
    """The library, if there may be a keyring."""
    if not {"DBUS_SESSION_BUS_ADDRESS", _BACKEND} & os.environ.keys():
        return None
    try:
        import keyring

        keyring.get_keyring()
    except (ImportError, AttributeError, ValueError) as error:
        raise Misuse(
            "no keyring of this library",
            field=_BACKEND,
            found=repr(os.environ.get(_BACKEND, "")[:200]),
            expected="the name of a class, as keyring.backends.SecretService.Keyring",
        ) from error
    except (OSError, RuntimeError) as error:
        # One that was asked for by name, and has not what it needs here, such as a bus.
        raise Unavailable("cannot be used here", field=_KEYRING, found=str(error)) from error
    return keyring


def _to_keyring(host: str, token: str) -> bool:
    """Put a token into the keyring, if there is one that takes it."""
    library = _keyring()
    if library is None:
        return False
    from keyring.errors import KeyringError

    try:
        library.set_password(_SERVICE, host, token)
    except KeyringError:
        # None, or one that its user does not open: then it is the file, and the caller says so.
        return False
    return True


def _from_keyring(host: str) -> str | None:
    library = _keyring()
    if library is None:
        raise Unavailable("not there", field=_KEYRING, hint="log in again")
    from keyring.errors import KeyringError

    try:
        found: str | None = library.get_password(_SERVICE, host)
    except KeyringError as error:
        raise Unavailable(
            "cannot be opened", field=_KEYRING, found=type(error).__name__, hint="unlock it"
        ) from error
    return found


def _forget_in_keyring(host: str) -> None:
    library = _keyring()
    if library is None:
        raise Unavailable("not there, so that the token stays in it", field=_KEYRING)
    from keyring.errors import KeyringError, PasswordDeleteError

    try:
        library.delete_password(_SERVICE, host)
    except PasswordDeleteError:
        # It is gone already.
        return
    except KeyringError as error:
        raise Unavailable("cannot be opened", field=_KEYRING, found=type(error).__name__) from error


def _run(helper: Helper, verb: str, stdin: str | None) -> str:
    try:
        done = subprocess.run(
            [helper.program, verb, helper.id],
            input=stdin or "",
            stdout=subprocess.PIPE,
            text=True,
            timeout=_HELPER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeError) as error:
        raise Unavailable(
            "the credential helper cannot be run",
            field=helper.program,
            found=type(error).__name__,
        ) from None
    if done.returncode != 0:
        raise Unavailable(
            f"the credential helper ended with {done.returncode}", field=f"{helper.program} {verb}"
        )
    return done.stdout


# The file.


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, _Kept]]:
    """The tokens as they are now, to be changed: by one process at a time.

    Helpers and keyrings ask their users: what another process has written meanwhile stays.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A file, open for writing: on NFS nothing else can be locked.
    lock = os.open(path.with_name(".tokens.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tokens = _load(path)
        yield tokens
        _write(path, tokens)
    finally:
        os.close(lock)


def _write(path: Path, tokens: dict[str, _Kept]) -> None:
    document = {
        host: {"helper": kept.program, "id": kept.id} if isinstance(kept, Helper) else kept
        for host, kept in tokens.items()
    }
    write_whole(path, json.dumps(document, indent=2).encode())


def _load(path: Path) -> dict[str, _Kept]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return {}
    with os.fdopen(descriptor) as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise Misuse(
                "others could have read or written the tokens",
                field=str(path),
                found=f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}",
                expected=f"owner {os.geteuid()}, mode 0600",
                hint="remove it, revoke the tokens, and log in again",
            )
        try:
            document = json.load(file)
        except (ValueError, RecursionError) as error:
            raise Malformed("not JSON", field=str(path), hint="remove it, log in again") from error
    if not isinstance(document, dict):
        raise Malformed("does not hold tokens", field=str(path), hint="remove it, log in again")
    return {host: _kept(value, path) for host, value in document.items()}


def _kept(value: object, path: Path) -> _Kept:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict) and value.keys() == {"helper", "id"}:
        program, name = value["helper"], value["id"]
        if isinstance(program, str) and isinstance(name, str):
            return Helper(program, name)
    raise Malformed("does not hold tokens", field=str(path), hint="remove it, log in again")
