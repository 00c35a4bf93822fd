"""Takes the kernel out of what unpacks itself. Run by the image's Python with the inputs' library.

`python unpack.py` reads from standard input, as JSON: `source` and `target`, files.

Format: Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header": after the sectors of
the setup stands a program, and in that the kernel, compressed, with its size behind it.
"""

from __future__ import annotations

import ctypes
import json
import struct
import sys
from pathlib import Path

_SECTOR = 512
_SETUP_SECTORS = 0x1F1
_MAGIC_AT = 0x202
_MAGIC = b"HdrS"
_VERSION_AT = 0x206
# The first that says where the payload is.
_VERSION = 0x208
_PAYLOAD = 0x248
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
# Debian's take 60 MiB.
_MAX_KERNEL = 256 << 20


def main() -> None:
    """Do it."""
    task = json.load(sys.stdin)
    kernel = Path(task["source"]).read_bytes()
    (version,) = struct.unpack_from("<H", kernel, _VERSION_AT)
    if kernel[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC or version < _VERSION:
        sys.exit("this is no bzImage that says where its kernel is")
    start, length = struct.unpack_from("<II", kernel, _PAYLOAD)
    start += (kernel[_SETUP_SECTORS] + 1) * _SECTOR
    payload = kernel[start : start + length]
    if not payload.startswith(_ZSTANDARD) or len(payload) != length:
        sys.exit(f"the kernel is not compressed with Zstandard: {payload[:4].hex()}")
    size = int.from_bytes(payload[-4:], "little")
    if size > _MAX_KERNEL:
        sys.exit(f"the kernel says that it has {size} bytes")
    unpack = ctypes.CDLL("libzstd.so.1").ZSTD_decompress
    unpack.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    unpack.restype = ctypes.c_size_t
    out = ctypes.create_string_buffer(size)
    found = unpack(out, size, payload[:-4], len(payload) - 4)
    if found != size:
        sys.exit(f"the kernel has {found} bytes, and says {size}")
    Path(task["target"]).write_bytes(out)


if __name__ == "__main__":
    main()
