"""A real S3-compatible server for tests: the Versity gateway over a folder, on loopback.

It creates conditionally (`If-None-Match: *`) in one step, as a drawbridge needs it. `make
s3-server` builds it; where it is not there, `find` says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from obstore.store import S3Store

from garrison.drawbridge.store import Store
from garrison.testing.stack import reserve_port, wait_until_listening

if TYPE_CHECKING:
    import socket

PROGRAM = "versitygw"
_BUCKET = "drawbridge"
_REGION = "us-east-1"
_KEY_ID, _KEY = "test", "insecure-test-key"


def find() -> str | None:
    """Where the server's program is, or None."""
    return shutil.which(PROGRAM, path=f"{Path(sys.prefix) / 'bin'}:{os.environ.get('PATH', '')}")


@dataclass
class S3Server:
    """A server with one empty bucket. Use it as a context manager.

    Attributes:
        directory: an empty one, where it keeps everything.
        url: where it listens.
    """

    directory: Path
    url: str = ""
    _process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _holder: socket.socket = field(init=False, repr=False)

    def __enter__(self) -> Self:
        program = find()
        if program is None:
            raise FileNotFoundError(PROGRAM)
        root, sidecar = self.directory / "root", self.directory / "sidecar"
        (root / _BUCKET).mkdir(parents=True)
        sidecar.mkdir()
        self._holder = reserve_port()
        port = self._holder.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program, "--quiet", "--port", f"127.0.0.1:{port}",
                    # Not every file system has extended attributes.
                    "posix", "--sidecar", str(sidecar), str(root),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={"ROOT_ACCESS_KEY": _KEY_ID, "ROOT_SECRET_KEY": _KEY},
            )  # fmt: skip
        try:
            wait_until_listening(PROGRAM, self._process, port, self.directory / "log")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._holder.close()

    def store(self, prefix: str) -> Store:
        """A store of its own for each `prefix`."""
        return Store(
            S3Store(
                _BUCKET,
                prefix=prefix,
                endpoint=self.url,
                region=_REGION,
                access_key_id=_KEY_ID,
                secret_access_key=_KEY,
                client_options={"allow_http": True},
            )
        )

    @staticmethod
    def location(prefix: str) -> str:
        """What `drawbridge serve --store` takes for the store of `prefix`."""
        return f"s3://{_BUCKET}/{prefix}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to use `location`."""
        return {
            "AWS_ENDPOINT": self.url,
            "AWS_REGION": _REGION,
            "AWS_ACCESS_KEY_ID": _KEY_ID,
            "AWS_SECRET_ACCESS_KEY": _KEY,
            "AWS_ALLOW_HTTP": "true",
        }
