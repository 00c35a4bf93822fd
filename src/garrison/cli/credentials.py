"""The user's tokens: one a drawbridge, in a file that only the user can read.

The file is `garrison/tokens.json` below `$XDG_CONFIG_HOME` (`~/.config`), mode 0600, replaced as a
whole. A file that others could have read or written is refused, not used.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from garrison.errors import Malformed, Misuse


def tokens_file() -> Path:
    """Where the tokens are kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "garrison" / "tokens.json"


def load_token(host: str) -> str | None:
    """The token for the drawbridge `host`, None if the user is not logged in there.

    Raises:
        Misuse: the file is another user's, or others may read or write it.
        Malformed: it does not hold tokens.
    """
    return _load(tokens_file()).get(host)


def store_token(host: str, token: str | None) -> None:
    """Keep `token` for the drawbridge `host`, or forget it if it is None.

    Raises:
        Misuse: as `load_token`.
        Malformed: as `load_token`.
    """
    path = tokens_file()
    tokens = _load(path)
    if token is not None:
        tokens[host] = token
    elif tokens.pop(host, None) is None:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".tokens.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(tokens, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _load(path: Path) -> dict[str, str]:
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
            tokens = json.load(file)
        except (ValueError, RecursionError) as error:
            raise Malformed("not JSON", field=str(path), hint="remove it, log in again") from error
    if not isinstance(tokens, dict) or not all(isinstance(token, str) for token in tokens.values()):
        raise Malformed("does not hold tokens", field=str(path), hint="remove it, log in again")
    return tokens
