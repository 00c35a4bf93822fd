"""An image as it lies in a folder: `vmlinuz`, `initrd`, `cmdline`, and `image.json` about them.

Beside these, which every machine boots, lie what starts them under UEFI, firmware of machines that
are measured, and the kernel unpacked, for machines that nobody measures.

`image.json` is for people, programs and caches, and nothing is believed because it stands there:
what a TEE measures are the parts. So `load` does not compare them with it; `check` does.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from garrison.errors import Malformed, Misuse, Unverified

KERNEL = "vmlinuz"
INITRD = "initrd"
COMMAND_LINE = "cmdline"
#: What starts all three as one file under UEFI; no part of a direct boot.
STUB = "stub.efi"
#: The kernel without what unpacks it, which takes an emulated machine a second.
UNPACKED = "vmlinux"
ABOUT = "image.json"
SBOM = "sbom.spdx.json"
#: Of a machine that is measured, by its TEE: it is measured too, and boots the other parts.
FIRMWARE = {"snp": "ovmf.snp.fd", "tdx": "ovmf.tdx.fd"}
_PARTS = {KERNEL, INITRD, COMMAND_LINE, STUB, UNPACKED, *FIRMWARE.values()}
#: What the kernel is told besides, in a machine of a TEE. ACPI's tables are the host's, and there
#: are programs in them (AML) that the kernel runs with all its rights: they read and write any
#: memory of the guest. On SNP nothing measures them, so that there they must not run; in a TD RTMR0
#: has them. A keep's machine needs none: it has one processor, and PCI that firmware has set up.
_BESIDES = {"snp": "acpi=off"}
FORMAT = 1
#: Larger parts do not fit below 4 GiB, where QEMU loads them; ours have 54 MiB at most.
MAX_PART = 1 << 30
#: With a line for each package.
_MAX_ABOUT = 1 << 20
#: Linux, arch/x86/include/asm/setup.h, COMMAND_LINE_SIZE.
MAX_COMMAND_LINE = 2047
_BUILD = "garrison image build"


@dataclass(frozen=True, slots=True)
class Image:
    """An image.

    Attributes:
        folder: where it lies.
        command_line: of its kernel, wherever it boots; see `command_line_in`.
        digest: of the image, as `image.json` says: `sha256:` and hex.
        inputs: the digest of what it was built from, likewise.
        about: all of `image.json`.
    """

    folder: Path
    command_line: str
    digest: str
    inputs: str
    about: dict[str, Any]

    @property
    def kernel(self) -> Path:
        """The kernel's file."""
        return self.folder / KERNEL

    @property
    def unpacked_kernel(self) -> Path:
        """The file of the kernel that boots fastest: unpacked, if it was built with that."""
        return self.folder / UNPACKED if UNPACKED in self.about["parts"] else self.kernel

    def command_line_in(self, tee: str | None) -> str:
        """Of its kernel in a machine of `tee`, which measures it; None: of one that nobody does."""
        # In front: of a line that is too long, the kernel leaves out the end.
        besides = _BESIDES.get(tee) if tee is not None else None
        return self.command_line if besides is None else f"{besides} {self.command_line}"

    @property
    def initrd(self) -> Path:
        """The file of the initial file system."""
        return self.folder / INITRD

    def firmware(self, tee: str) -> Path:
        """The file of the firmware that boots it in a machine of `tee`.

        Raises:
            Misuse: it was built without.
        """
        path = self.folder / FIRMWARE[tee]
        if FIRMWARE[tee] not in self.about["parts"]:
            raise Misuse(
                f"an image without firmware for {tee}",
                field=str(self.folder),
                expected=FIRMWARE[tee],
                hint=f"name another, or build it again: {_BUILD}",
            )
        return path

    def check(self) -> None:
        """Compare the parts with what `image.json` says.

        Raises:
            Unverified: one was changed.
            OSError: one cannot be read.
        """
        for name, said in self.about["parts"].items():
            found = part(self.folder / name)
            if found != said:
                raise Unverified(
                    "is not what was built",
                    field=str(self.folder / name),
                    found=found,
                    expected=said,
                    hint=f"build it again: {_BUILD}",
                )


def cache() -> Path:
    """Where inputs and images are kept for this user.

    Raises:
        Misuse: there is no such place.
    """
    # XDG Base Directory 0.8: a relative path is to be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        home = os.environ.get("HOME", "")
        if not home.startswith("/"):
            raise Misuse(
                "there is no folder to keep images in",
                expected="XDG_CACHE_HOME or HOME",
                hint="name a folder: --output",
            )
        base = f"{home}/.cache"
    return Path(base) / "garrison" / "images"


def load(folder: Path) -> Image:
    """Read what lies in a folder.

    Raises:
        Misuse: there is no image.
        Malformed: there is something else.
        OSError: it cannot be read.
    """
    try:
        with (folder / ABOUT).open("rb") as file:
            text = file.read(_MAX_ABOUT + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Misuse(
            "no image there", field=str(folder), expected=ABOUT, hint=f"make one: {_BUILD}"
        ) from error
    try:
        if len(text) > _MAX_ABOUT:
            raise _bad(folder, f"more than {_MAX_ABOUT} bytes", "less")
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(folder, error, "JSON") from error
    match about:
        case {
            "format": 1,
            "digest": str(digest),
            "inputs": str(inputs),
            "parts": {"vmlinuz": str(), "initrd": str(), "cmdline": str()} as parts,
        } if all(isinstance(each, str) for each in parts.values()) and parts.keys() <= _PARTS:
            pass
        case _:
            raise _bad(folder, "another document", f"format {FORMAT} with digest, inputs, parts")
    for name in parts:
        if not (folder / name).is_file():
            raise Malformed("an image without", field=str(folder), found=f"no {name}")
        size = (folder / name).stat().st_size
        if size > MAX_PART:
            raise Malformed(
                "too large for an image",
                field=str(folder / name),
                found=f"{size} bytes",
                expected=f"at most {MAX_PART}",
            )
    with (folder / COMMAND_LINE).open("rb") as file:
        line = file.read(MAX_COMMAND_LINE + 1)
    if len(line) > MAX_COMMAND_LINE or not line.isascii() or not line.decode().isprintable():
        raise Malformed(
            "cannot be a command line",
            field=str(folder / COMMAND_LINE),
            expected=f"one line of ASCII, at most {MAX_COMMAND_LINE} bytes",
        )
    return Image(folder, line.decode(), digest, inputs, about)


def part(path: Path) -> str:
    """The digest of a part, as `image.json` has it."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _bad(folder: Path, found: object, expected: object) -> Malformed:
    return Malformed(
        "does not describe an image", field=str(folder / ABOUT), found=found, expected=expected
    )
