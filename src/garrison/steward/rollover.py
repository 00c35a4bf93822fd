"""Another issuer, and perhaps another root, without a moment at which a good keep is refused.

========  =========================  =================================  ======================
state     issues                     trusted (`root.pem`, `/bundle`)    of the other there is
========  =========================  =================================  ======================
plain     the one there is           its root                           nothing
prepared  still the first            first root, second root            all, in `next`
active    the second                 second root, first root            all, in `old`
========  =========================  =================================  ======================

`prepare`, `activate` and `retire` go from one to the next, and `retire` back to plain. Between
prepare and activate whoever trusts the steward fetches the roots; between activate and retire
the certificates of the first issuer run out, or are renewed. The keys for results change in the
same steps. A running steward reads the directory again on SIGHUP.

Each step makes a whole directory, `generation-<n>`, and then turns the link `live` to it: that is
one rename, and there is no moment with half a step. `root.pem`, `server.pem` and `server.key` are
links through `live` from then on. What is not live any more is removed, keys and all.
"""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.disk import flush
from garrison.errors import Malformed, Misuse
from garrison.steward.authority import (
    CHALLENGE_KEY,
    ISSUER_KEY,
    ISSUER_PEM,
    ISSUER_TOKEN,
    LIVE,
    NEXT,
    OLD,
    RESULT_KEY,
    ROOT_KEY,
    ROOT_PEM,
    SERVER_KEY,
    SERVER_PEM,
    Authority,
    home_of,
)
from garrison.steward.init import issuer_files, make_directory
from garrison.steward.keys import load_certificate, load_certificates, read_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from garrison.steward.init import Custody

# The longest life of a certificate that a policy can give.
OVERLAP = timedelta(days=1)

_ISSUER_FILES = (ROOT_PEM, ROOT_KEY, ISSUER_PEM, ISSUER_KEY, ISSUER_TOKEN, RESULT_KEY)
_FILES = (*_ISSUER_FILES, SERVER_PEM, SERVER_KEY)
# What others are told to read; the rest is the steward's alone.
_LINKED = (ROOT_PEM, SERVER_PEM, SERVER_KEY)
_SINCE = "since"
_GENERATION = re.compile(r"generation-(\d{1,9})")


def prepare(directory: Path, custody: Custody, now: datetime) -> None:
    """Make the next issuer, and trust its root beside the one in use.

    Args:
        directory: the steward's.
        custody: where the new keys are to be; its secret opens the present ones, too. With the
            offline root that there is, the root stays, and the intermediate alone is new.
        now: the time.

    Raises:
        Misuse: a rollover is under way, or a file, a token or the root cannot be used.
        Malformed: a file does not hold what it should.
        Unavailable: a token fails.
    """
    home = _in_state(directory, None)
    authority = Authority.load(directory, custody.secret)
    upcoming = issuer_files(authority.trust_domain, _hosts(home / SERVER_PEM), now, custody)
    new_root = x509.load_pem_x509_certificate(upcoming[ROOT_PEM])
    files = _files_of(home, (*_FILES, CHALLENGE_KEY))
    files[ROOT_PEM] = _pem((*authority.roots, new_root))
    files |= {f"{NEXT}/{name}": content for name, content in upcoming.items()}
    _go(directory, files)


def activate(directory: Path, now: datetime) -> None:
    """Issue by the next issuer from now on, and keep trusting the one before.

    Raises:
        Misuse: nothing is prepared, or a file cannot be used.
        Malformed: a file does not hold what it should.
    """
    home = _in_state(directory, NEXT)
    roots = load_certificates(home / ROOT_PEM)
    files = _files_of(home / NEXT, _FILES) | _files_of(home, (CHALLENGE_KEY,))
    for name, content in _files_of(home, _ISSUER_FILES).items():
        files[f"{OLD}/{name}"] = content
    files[f"{OLD}/{ROOT_PEM}"] = _pem(roots[:1])
    files[f"{OLD}/{_SINCE}"] = now.astimezone(UTC).isoformat().encode() + b"\n"
    files[ROOT_PEM] = _pem((load_certificate(home / NEXT / ROOT_PEM), *roots))
    _go(directory, files)


def retire(directory: Path, now: datetime, *, early: bool = False) -> None:
    """Trust the first issuer's root no longer, and remove its keys.

    Args:
        directory: the steward's.
        now: the time.
        early: though certificates that it issued may still be good.

    Raises:
        Misuse: nothing is to be retired, it is too early, or a file cannot be used.
        Malformed: a file does not hold what it should.
    """
    home = _in_state(directory, OLD)
    end = _since(home / OLD / _SINCE) + OVERLAP
    if now < end and not early:
        raise Misuse(
            "certificates of the old issuer may still be good",
            field=str(directory),
            found=now.astimezone(UTC).isoformat(),
            expected=f"{end.isoformat()} or later",
            hint="with --early keeps that have not renewed lose their peers",
        )
    files = _files_of(home, (*_FILES, CHALLENGE_KEY))
    files[ROOT_PEM] = _pem(load_certificates(home / ROOT_PEM)[:1])
    _go(directory, files)


def state(directory: Path) -> str:
    """`plain`, `prepared` or `active`."""
    home = home_of(directory)
    if (home / NEXT).exists():
        return "prepared"
    return "active" if (home / OLD).exists() else "plain"


def _in_state(directory: Path, wanted: str | None) -> Path:
    """Where the files are, if the rollover is where it must be for the next step."""
    expected = {None: "plain", NEXT: "prepared", OLD: "active"}[wanted]
    found = state(directory)
    if found != expected:
        raise Misuse(
            "not the next step of the rollover",
            field=str(directory),
            found=found,
            expected=expected,
            hint="the steps are prepare, activate, retire",
        )
    _adopt(directory)
    return home_of(directory)


def _adopt(directory: Path) -> None:
    """Move the files of a directory that never had a rollover to where `live` leads.

    What is live, and what the names in the directory lead to, is the same at each moment.
    """
    if not (directory / LIVE).is_symlink():
        _go(directory, _files_of(directory, (*_FILES, CHALLENGE_KEY)))
    for name in (*_FILES, CHALLENGE_KEY):
        path = directory / name
        try:
            if name in _LINKED and not path.is_symlink():
                _link(path, f"{LIVE}/{name}")
            elif name not in _LINKED:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise Misuse(f"cannot be changed: {error.strerror}", field=str(path)) from error


def _go(directory: Path, files: dict[str, bytes]) -> None:
    """Make `files` live, and remove what was."""
    generations = {
        int(match[1]): path
        for path in directory.iterdir()
        if (match := _GENERATION.fullmatch(path.name)) is not None
    }
    number = max(generations, default=0) + 1
    made = directory / f"generation-{number}"
    make_directory(made, files)
    try:
        _link(directory / LIVE, made.name)
        for path in generations.values():
            shutil.rmtree(path)
    except OSError as error:
        raise Misuse(f"cannot be changed: {error.strerror}", field=str(directory)) from error


def _link(path: Path, target: str) -> None:
    """Make `path` a link to `target`, in one step whatever it was before."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(path)
    flush(path.parent)


def _files_of(directory: Path, names: Iterable[str]) -> dict[str, bytes]:
    return {name: read_file(directory / name) for name in names if (directory / name).exists()}


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """The certificates in PEM, each once."""
    return b"".join(item.public_bytes(Encoding.PEM) for item in dict.fromkeys(certificates))


def _hosts(server: Path) -> list[str]:
    """What the service's own certificate is for."""
    try:
        names = load_certificates(server)[0].extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except (ValueError, x509.ExtensionNotFound) as error:
        raise Malformed("not a server's certificate", field=str(server)) from error
    addresses = map(str, names.value.get_values_for_type(x509.IPAddress))
    return [*names.value.get_values_for_type(x509.DNSName), *addresses]


def _since(path: Path) -> datetime:
    try:
        found = datetime.fromisoformat(read_file(path).decode("ascii").strip())
    except ValueError as error:
        raise Malformed("not a time", field=str(path)) from error
    if found.tzinfo is None:
        raise Malformed("a time without its offset", field=str(path))
    return found
