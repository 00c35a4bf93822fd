"""An image's file system as an SGX enclave under Gramine: a folder, and its manifest.

Source: Gramine, "Manifest syntax" (1.7 and later). The files are those of the image, without kernel
modules and what starts a machine; each is named in the manifest with its SHA-256, so the enclave's
measurement covers every byte, and a file that is not named cannot be opened. The one exception is
the host's request, which no keep believes anyway (`garrison.formats.launch_request`).

The same image gives the same folder. What depends on the Gramine that is installed stands in the
manifest in braces, and `gramine-manifest` fills it in; `gramine-sgx-sign` measures and signs. It
was never run under Gramine: see docs/limitations.md.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from garrison.disk import TEMPORARY
from garrison.errors import Malformed, Misuse
from garrison.image import cpio

if TYPE_CHECKING:
    from garrison.image.folder import Image

#: What the folder holds: the files; the manifest, before `gramine-manifest` and when it is signed.
ROOT = "root"
TEMPLATE = "garrison.manifest.template"
MANIFEST = "garrison.manifest.sgx"
SIGSTRUCT = "garrison.sig"
#: What `gramine-sgx` is called with, and the host's request beside it.
NAME = "garrison"
REQUEST = "request.json"

_PYTHON = "/usr/bin/python3.13"
# What of the image is for a machine of its own.
_MACHINE = ("usr/lib/modules/", "etc/", "init")
_USED = "usr/"
# `-m` would import 20 modules to find this one.
_KEEP = "from garrison.keep.__main__ import main; raise SystemExit(main())"
# Linux, lib/decompress_unlz4.c: the legacy frame, in blocks of 8 MiB each.
_LZ4_MAGIC = 0x184C2102
_BLOCK = 8 << 20
_MAX_FILES = 1 << 30
_HEAD = """\
# A Garrison keep under Gramine. To make an enclave of it, in this folder:
#   gramine-manifest {template} garrison.manifest
#   gramine-sgx-sign --manifest garrison.manifest --output {signed} --key KEY

loader.entrypoint.uri = "file:{{{{ gramine.libos }}}}"
libos.entrypoint = {python}
loader.argv = {argv}
loader.log_level = "error"
loader.env.LD_LIBRARY_PATH = "/lib:/usr/lib/x86_64-linux-gnu"
loader.env.LC_ALL = "C.UTF-8"
loader.env.HOME = "/tmp"
loader.env.NO_COLOR = "1"

# The host's signals end the workload; names are resolved by the host.
sys.enable_sigterm_injection = true
sys.enable_extra_runtime_domain_names_conf = true

fs.mounts = [
  {{ path = "/lib", uri = "file:{{{{ gramine.runtimedir() }}}}" }},
  {{ path = "/usr", uri = "file:{root}/usr" }},
  {{ path = "/request", uri = "file:{request}" }},
  {{ type = "tmpfs", path = "/tmp" }},
]

sgx.debug = false
sgx.remote_attestation = "dcap"
# Memory is added as it is needed (SGX2). A workload's memory is reserved with its guard pages.
sgx.edmm_enable = true
sgx.enclave_size = "64G"
sgx.max_threads = 64

# Which workload the host asks for: not believed, and not measured.
sgx.allowed_files = ["file:{request}"]
sgx.trusted_files = [
  "file:{{{{ gramine.libos }}}}",
  "file:{{{{ gramine.runtimedir() }}}}/",
"""


def manifest(files: dict[str, bytes]) -> str:
    """The manifest's template for an enclave of `files`, by path."""
    argv = [_PYTHON, "-ISB", "-c", _KEEP, "/request"]
    head = _HEAD.format(
        template=TEMPLATE,
        signed=MANIFEST,
        python=json.dumps(_PYTHON),
        argv=json.dumps(argv),
        root=ROOT,
        request=REQUEST,
    )
    lines = [
        f"  {{ uri = {json.dumps(f'file:{ROOT}/{path}')}, "
        f'sha256 = "{hashlib.sha256(content).hexdigest()}" }},\n'
        for path, content in sorted(files.items())
    ]
    return head + "".join(lines) + "]\n"


def export(image: Image, folder: Path) -> int:
    """Write the folder, and return how many bytes its files have.

    Raises:
        Misuse: `folder` is there, or this machine has no LZ4.
        Malformed: the image's file system cannot be read.
        OSError: a part cannot be read, or the folder not be written.
    """
    tree = cpio.unpacked(_decompressed(image.initrd.read_bytes()))
    python = tree.get(_PYTHON.lstrip("/"))
    if python is None or not stat.S_ISREG(python.mode):
        raise Malformed("has no such file", field=str(image.initrd), expected=_PYTHON)
    if os.path.lexists(folder):
        raise Misuse("is there already, and is not written over", field=str(folder))
    if not folder.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    # It has its name when it is whole, and not before.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=TEMPORARY) as work:
        made = Path(work) / "made"
        made.mkdir()
        size = _write(tree, made)
        made.rename(folder)
    return size


def _write(tree: dict[str, cpio.Entry], folder: Path) -> int:
    """Write what of a tree is for an enclave, with its manifest, and return the files' bytes."""
    files = {}
    for path, entry in tree.items():
        if not path.startswith(_USED) or path.startswith(_MACHINE):
            continue
        place = folder / ROOT / path
        if stat.S_ISREG(entry.mode):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(entry.content)
            place.chmod(0o755 if entry.mode & stat.S_IXUSR else 0o644)
            files[path] = entry.content
        elif stat.S_ISLNK(entry.mode):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(entry.content.decode())
    (folder / TEMPLATE).write_text(manifest(files))
    return sum(map(len, files.values()))


def _decompressed(data: bytes) -> bytes:
    """What `garrison.image.squeeze` compressed."""
    if int.from_bytes(data[:4], "little") != _LZ4_MAGIC:
        raise Malformed("is not what an image has", field="initrd", found=data[:4].hex())
    try:
        library = ctypes.CDLL("liblz4.so.1")
    except OSError as error:
        raise Misuse("is not installed", field="liblz4.so.1", hint="install liblz4-1") from error
    decompress = library.LZ4_decompress_safe
    decompress.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    out = ctypes.create_string_buffer(_BLOCK)
    whole = bytearray()
    at = 4
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        block = data[at + 4 : at + 4 + size]
        found = decompress(block, out, len(block), _BLOCK) if len(block) == size else -1
        if found < 0 or len(whole) + found > _MAX_FILES:
            raise Malformed("cannot be decompressed", field="initrd", found=f"block at byte {at}")
        whole += memoryview(out)[:found]
        at += 4 + size
    return bytes(whole)
