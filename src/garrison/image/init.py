"""The first process of a keep image: the image's `/init` calls `main`, and the kernel that.

It mounts what a keep reads, loads the modules that the image lists for evidence if the machine is
confidential, closes the root file system to writing, and calls the entry that the image names. The
drivers of devices are loaded when the entry asks for them: the kernel checks the signature of each
module, which takes an emulated machine a tenth of a second for four. It reads nothing that the
host wrote: no argument, no environment, no kernel parameter.

Whatever happens, the machine is powered off at the end; if something failed, the reason stands on
the console before. It refuses to be anything but process 1.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import sys
import time

#: By the machine's clock, when this was imported: the kernel has done its part.
started = time.clock_gettime(time.CLOCK_BOOTTIME)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: In the image: paths of the modules for a machine's devices, a line each, in the order of loading.
DEVICE_MODULES = "/etc/garrison/modules"
#: The same, of those for the evidence of a confidential machine.
EVIDENCE_MODULES = "/etc/garrison/modules.evidence"
#: The same, of all for a machine without PCI, as a Nitro enclave is.
ENCLAVE_MODULES = "/etc/garrison/modules.enclave"
#: In the image: the Python module whose `main` is called, without arguments.
ENTRY = "/etc/garrison/entry"

# linux/mount.h
_MS_RDONLY = 1
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_NOEXEC = 8
_MS_REMOUNT = 32
_STRICT = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
# Type, place, flags, options, mode of the place.
_MOUNTS = (
    ("proc", "/proc", _STRICT, ""),
    ("sysfs", "/sys", _STRICT, ""),
    ("devtmpfs", "/dev", _MS_NOSUID | _MS_NOEXEC, "mode=0755"),
    ("tmpfs", "/tmp", _STRICT, "mode=1777"),  # noqa: S108  (made here, for this machine alone)
    ("tmpfs", "/run", _STRICT, "mode=0755"),
)
# Once the modules are there: it may be one.
_CONFIGFS = ("configfs", "/sys/kernel/config", _STRICT, "")
# asm/unistd_64.h; the C library has no function for it.
_SYS_FINIT_MODULE = 313
_SYS_DELETE_MODULE = 176
# Without one of these, what they answer through would look like a TEE that does not answer.
_PROVIDERS = ("sev_guest", "tdx_guest")
_INTERFACE = "tsm"
_PCI = "/sys/bus/pci/devices"
# By what the kernel itself says that the providers are for this machine: the device that the first
# drives (drivers/virt/coco/sev-guest), and the processor's feature that the second is loaded for
# (X86_FEATURE_TDX_GUEST, 8 * 32 + 22, as `MODULE_DEVICE_TABLE` writes it).
_SNP_DEVICE = "/sys/bus/platform/devices/sev-guest"
_FEATURES = "/sys/devices/system/cpu/modalias"
_TDX_FEATURE = ",0116,"
# The module is for hardware that this machine does not have, or there already.
_NOT_HERE = frozenset({errno.ENODEV, errno.EEXIST})
# linux/reboot.h, RB_POWER_OFF and RB_AUTOBOOT of the C library.
_POWER_OFF = 0x4321FEDC
_RESTART = 0x01234567
# Without ACPI (`garrison.image.folder`, and in an enclave) the kernel has nothing to power off by,
# and would stand still: a reset ends the machine there, for that is how its host starts it.
_ACPI = "/sys/firmware/acpi"


def main() -> NoReturn:
    """Set the machine up, run the entry, and power off."""
    if os.getpid() != 1:
        sys.exit("garrison: init: only the kernel starts this")
    # What is imported now lives to the end; looking for garbage in it is lost time.
    gc.disable()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        for each in _MOUNTS:
            _mount(libc, *each)
        if os.listdir(_PCI):  # noqa: PTH208  (as below)
            if _confidential():
                _prepare_evidence(libc)
        else:
            _load_all(libc, ENCLAVE_MODULES)
        _mount(libc, "none", "/", _MS_REMOUNT | _MS_RDONLY, "")
        os.environ.clear()
        os.environ.update(HOME="/run", LC_ALL="C.UTF-8", NO_COLOR="1")
        (entry,) = _lines(ENTRY)
        # With `fromlist` it is the module itself, not the package that it is in.
        __import__(entry, fromlist=["main"]).main()
    except BaseException as error:  # noqa: BLE001  (nobody else tells it)
        from garrison.terminal import report  # late: only here

        report(error)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            libc.tcdrain(stream.fileno())
        libc.reboot(_POWER_OFF if os.path.exists(_ACPI) else _RESTART)  # noqa: PTH110  (as below)
    sys.exit("garrison: init: the machine does not power off")


def load_devices() -> None:
    """Load the drivers of a machine's devices; those that are there already stay.

    Raises:
        OSError: one cannot be loaded.
    """
    _load_all(ctypes.CDLL(None, use_errno=True), DEVICE_MODULES)


def _confidential() -> bool:
    """Whether the kernel says that this machine is; what it says is no evidence."""
    return os.path.exists(_SNP_DEVICE) or _TDX_FEATURE in _lines(_FEATURES)[0]  # noqa: PTH110


def _load_all(libc: ctypes.CDLL, listed: str) -> None:
    for path in _lines(listed):
        _load(libc, path)


def _prepare_evidence(libc: ctypes.CDLL) -> None:
    _load_all(libc, EVIDENCE_MODULES)
    if not any(os.path.exists(f"/sys/module/{name}") for name in _PROVIDERS):  # noqa: PTH110
        _unload(libc, _INTERFACE)
    _mount(libc, *_CONFIGFS)


def _mount(libc: ctypes.CDLL, kind: str, place: str, flags: int, options: str) -> None:
    if libc.mount(kind.encode(), place.encode(), kind.encode(), flags, options.encode()):
        _fail(f"mount {kind} at {place}")


def _load(libc: ctypes.CDLL, path: str) -> None:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (pathlib takes 20 ms to import here)
        failed = libc.syscall(_SYS_FINIT_MODULE, file.fileno(), b"", 0)
    if failed and ctypes.get_errno() not in _NOT_HERE:
        _fail(f"load {path}")


def _unload(libc: ctypes.CDLL, name: str) -> None:
    if libc.syscall(_SYS_DELETE_MODULE, name.encode(), os.O_NONBLOCK):
        _fail(f"unload {name}")


def _lines(path: str) -> list[str]:
    with open(path) as file:  # noqa: PTH123  (as above)
        return file.read().splitlines()


def _fail(what: str) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), what)
