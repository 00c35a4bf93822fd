"""Whether KVM truly runs a guest on this computer: tried once, and remembered until it restarts.

Trying takes seconds where it does not. What is remembered is a hint about speed and no more.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from garrison.errors import Misuse
from garrison.image.folder import cache

_DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_WORDS = {"runs": True, "does not run": False}


def kvm_runs(qemu: str) -> bool:
    """Whether a guest of `qemu`'s runs with KVM here."""
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return False
    boot = _BOOT_ID.read_text().strip()
    remembered = _remembered()
    try:
        known_boot, known_qemu, word = remembered.read_text().split("\n")
        if (known_boot, known_qemu) == (boot, qemu):
            return _WORDS[word]
    except (OSError, ValueError, KeyError):
        pass
    from garrison.launch.host_probe import guest_runs  # late: once

    try:
        guest_runs(qemu)
        word = "runs"
    except OSError:
        word = "does not run"
    with suppress(OSError):
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.write_text(f"{boot}\n{qemu}\n{word}")
    return _WORDS[word]


def _remembered() -> Path:
    try:
        return cache().with_name("kvm")
    except Misuse:
        # There is no home; nothing is there, and nothing can be written.
        return Path("/nonexistent/kvm")
