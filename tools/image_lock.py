"""Write `src/garrison/image/inputs.json`: the newest packages of a suite, the wheels that we test.

Runs on Debian: APT, with folders of its own, says what is newest and that Debian signed it. Wheels
are of the versions, and have the digests, that `requirements.lock` names.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import time
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

from garrison.image.fetch import MIRROR, PIP_TARGET
from garrison.image.lock import LOCK, Input, Lock

if TYPE_CHECKING:
    from collections.abc import Iterator

_KERNEL = "linux-image-cloud-amd64"
_ROOT = Path(__file__).parent.parent
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# Each with the reason why a keep needs it.
PACKAGES = {
    _KERNEL: "the kernel, and the modules that a keep loads",
    "libc6": "the C library of all the rest, and its loader",
    "libexpat1": "Python's program is linked with it",
    "libffi8": "ctypes: Python calls the WebAssembly engine through it",
    "libgcc-s1": "the WebAssembly engine and wheels in Rust unwind their stacks with it",
    "liblz4-1": "packs the initial file system, in which it is not",
    "libpython3.13-minimal": "Python's library: the part that every program needs",
    "libpython3.13-stdlib": "Python's library: sockets, TLS, JSON and more, as far as imported",
    "libssl3t64": "TLS to the steward and to the registry",
    "libzstd1": "libssl3t64 is linked with it",
    "python3.13-minimal": "Python, which a keep is written in",
    "systemd-boot-efi": "starts the image as one file (UKI) under UEFI",
    "zlib1g": "Python's program and libssl3t64 are linked with it",
}
# The suite has none that measures the kernel: the next one does. Guests run nothing else of it.
FIRMWARE_SUITE = "forky"
FIRMWARE = {
    "ovmf-amdsev": "the firmware of SEV-SNP machines, which holds the kernel to its digest",
    "ovmf-inteltdx": "the firmware of TDX machines",
}
WHEELS = {
    "certifi": "the roots of the public web, for workloads that name them",
    "cffi": "cryptography is bound to Python with it",
    "cryptography": "keys, certificates, signatures",
    "httptools": "HTTP of components that serve it or ask for it",
    "pyopenssl": "TLS under a workload's sockets",
    "urllib3": "HTTP to the steward and to the registry",
    "wasmtime": "the WebAssembly engine",
}


def main() -> int:
    """Write the lock, and say what changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="trixie")
    parser.add_argument("--mirror", default=MIRROR)
    parser.add_argument("--output", type=Path, default=LOCK)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        suites = ((options.suite, PACKAGES), (FIRMWARE_SUITE, FIRMWARE))
        packages = tuple(
            sorted(
                (
                    found
                    for suite, reasons in suites
                    for found in _packages(Path(folder) / suite, suite, options.mirror, reasons)
                ),
                key=_name,
            )
        )
        wheels = tuple(sorted(_wheels(Path(folder)), key=_name))
    lock = Lock(options.suite, int(time.time()), packages, wheels)
    # What is written must be readable.
    options.output.write_bytes(Lock.from_bytes(lock.to_bytes()).to_bytes())
    for each in (*packages, *wheels):
        print(f"{each.name} {each.version}")
    return 0


def _name(item: Input) -> str:
    return item.name


def _packages(folder: Path, suite: str, mirror: str, wanted: dict[str, str]) -> Iterator[Input]:
    apt = folder / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} {suite} main\n")
    (apt / "apt.conf").write_text(
        f"""Dir::State "{apt}";
Dir::State::lists "{apt}/lists";
Dir::State::status "{apt}/status";
Dir::Cache "{apt}/cache";
Dir::Etc::sourcelist "{apt}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
APT::Architecture "amd64";
APT::Architectures "amd64";
Acquire::Languages "none";
"""
    )
    _apt(apt, "apt-get", "update", "-q")
    for name, why in wanted.items():
        found = _show(apt, name)
        if name == _KERNEL:
            # It has nothing but the name of the newest.
            kernel = re.match(r"linux-image-\S+-cloud-amd64", found["Depends"])
            if kernel is None:
                raise SystemExit(f"{name} depends on no kernel: {found['Depends']}")
            name, found = kernel[0], _show(apt, kernel[0])  # noqa: PLW2901  (what it stands for)
        yield Input(
            name, found["Version"], found["Filename"], found["SHA256"], int(found["Size"]), why
        )


def _apt(apt: Path, *command: str) -> str:
    environment = {"APT_CONFIG": str(apt / "apt.conf"), "PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _show(apt: Path, name: str) -> dict[str, str]:
    text = _apt(apt, "apt-cache", "show", "--no-all-versions", name)
    return dict(HeaderParser().parsestr(text).items())


def _wheels(folder: Path) -> Iterator[Input]:
    locked = (_ROOT / "requirements.lock").read_text()
    for name, why in WHEELS.items():
        pinned = re.search(
            rf"^{name}==(\S+)[^\n]*\n((?:    --hash=\S+(?: \\)?\n)+)", locked, re.MULTILINE
        )
        if pinned is None:
            raise SystemExit(f"requirements.lock does not name {name}")
        place = folder / name
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *PIP_TARGET,
             "--dest", place, f"{name}=={pinned[1]}"],
            check=True,
        )  # fmt: skip
        (wheel,) = place.iterdir()
        content = wheel.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest not in pinned[2]:
            raise SystemExit(f"requirements.lock does not name the digest of {wheel.name}")
        yield Input(name, pinned[1], wheel.name, digest, len(content), why)


if __name__ == "__main__":
    sys.exit(main())
