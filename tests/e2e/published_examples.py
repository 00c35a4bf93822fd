"""The examples that the makers of `componentize-py` publish, as PyPI has them: none is copied here.

The source distribution of the very release that `requirements.lock` names has them, under a digest
that stands there too. It and what is built of it are kept beside the installed packages.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]
_KEPT = Path(sys.prefix) / "published"
_WORLDS = {"http": "wasi:http/proxy@0.2.0", "cli": "wasi:cli/command@0.2.0"}
_LOCKED = re.compile(
    r"^componentize-py==(\S+)((?:\s*\\\s*--hash=sha256:[0-9a-f]{64})+)", re.MULTILINE
)
# PEP 691.
_SIMPLE = "application/vnd.pypi.simple.v1+json"
_SECONDS = 60


def compiler() -> Path:
    """`componentize-py`; the test is skipped where it is not installed."""
    found = Path(sys.executable).parent / "componentize-py"
    if not found.exists():
        pytest.skip("no componentize-py (dependency group `guests`)")
    return found


def example(name: str) -> bytes:
    """The component of the published example `name`, built as its README says.

    The test is skipped where the index of Python packages cannot be reached.
    """
    componentize = compiler()
    folder = _sources()
    out = folder / f"{name}.wasm"
    if not out.exists():
        made = out.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [componentize, "-d", "../../wit", "-w", _WORLDS[name], "componentize", "app", "-o",
             made],
            cwd=folder / "examples" / name,
            check=True,
            capture_output=True,
        )  # fmt: skip
        made.rename(out)
    return out.read_bytes()


def _sources() -> Path:
    """The directory of the release's sources, unpacked."""
    locked = _LOCKED.search((_ROOT / "requirements.lock").read_text())
    assert locked is not None, "requirements.lock has no componentize-py"
    version, digests = locked[1], re.findall(r"[0-9a-f]{64}", locked[2])
    name = f"componentize_py-{version}"
    folder = _KEPT / name
    if folder.is_dir():
        return folder
    try:
        data = _download(f"{name}.tar.gz")
    except urllib.error.URLError as error:
        pytest.skip(f"no index of Python packages: {error.reason}")
    digest = hashlib.sha256(data).hexdigest()
    assert digest in digests, f"{name}.tar.gz is {digest}, which is not in requirements.lock"
    unpacked = _KEPT / f"{name}.{os.getpid()}"
    unpacked.mkdir(parents=True)
    archive = unpacked / "sources.tar.gz"
    archive.write_bytes(data)
    subprocess.run(["tar", "-xzf", archive, "-C", unpacked], check=True)
    (unpacked / name).rename(folder)
    archive.unlink()
    unpacked.rmdir()
    return folder


def _download(name: str) -> bytes:
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    page = f"{index}/componentize-py/"
    asked = urllib.request.Request(page, headers={"Accept": _SIMPLE})  # noqa: S310  (pip's index)
    with urllib.request.urlopen(asked, timeout=_SECONDS) as answer:  # noqa: S310  (likewise)
        listed: dict[str, Any] = json.load(answer)
    (url,) = [file["url"] for file in listed["files"] if file["filename"] == name]
    url = urllib.parse.urljoin(page, url)
    with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310  (its digest counts)
        data: bytes = answer.read()
    return data
