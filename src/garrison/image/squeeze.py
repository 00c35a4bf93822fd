"""Compresses a file with Zstandard. Run by the image's Python with the image's library.

`python squeeze.py` reads from standard input, as JSON: `source` and `target`, files, and `level`.
The same library gives the same bytes anywhere; the library of the machine that builds may not.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path


def main() -> None:
    """Do it."""
    task = json.load(sys.stdin)
    content = Path(task["source"]).read_bytes()
    # zstd.h
    zstd = ctypes.CDLL("libzstd.so.1")
    zstd.ZSTD_compressBound.restype = zstd.ZSTD_compress.restype = ctypes.c_size_t
    zstd.ZSTD_compressBound.argtypes = [ctypes.c_size_t]
    zstd.ZSTD_compress.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int,
    ]  # fmt: skip
    room = zstd.ZSTD_compressBound(len(content))
    out = ctypes.create_string_buffer(room)
    size = zstd.ZSTD_compress(out, room, content, len(content), task["level"])
    zstd.ZSTD_isError.argtypes = [ctypes.c_size_t]
    if zstd.ZSTD_isError(size):
        sys.exit("Zstandard failed")
    Path(task["target"]).write_bytes(memoryview(out)[:size])


if __name__ == "__main__":
    main()
