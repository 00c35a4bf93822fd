"""Compresses a file with LZ4. Run by the image's Python with the inputs' library.

`python squeeze.py` reads from standard input, as JSON: `source` and `target`, files, and `level`.
The same library gives the same bytes anywhere; the library of the machine that builds may not.

Format: LZ4, doc/lz4_Frame_format.md, "Legacy frame", which is the one that Linux reads: a magic
number, then blocks of 8 MiB, each with its compressed size before it.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

_MAGIC = 0x184C2102
_BLOCK = 8 << 20


def main() -> None:
    """Do it."""
    task = json.load(sys.stdin)
    content = Path(task["source"]).read_bytes()
    compress = ctypes.CDLL("liblz4.so.1").LZ4_compress_HC
    compress.argtypes = [ctypes.c_char_p, ctypes.c_void_p, *[ctypes.c_int] * 3]
    # lz4.h, LZ4_COMPRESSBOUND
    out = ctypes.create_string_buffer(_BLOCK + _BLOCK // 255 + 16)
    with Path(task["target"]).open("wb") as file:
        file.write(_MAGIC.to_bytes(4, "little"))
        for start in range(0, len(content), _BLOCK):
            block = content[start : start + _BLOCK]
            size = compress(block, out, len(block), len(out), task["level"])
            if size <= 0:
                sys.exit("LZ4 failed")
            file.write(size.to_bytes(4, "little"))
            file.write(memoryview(out)[:size])


if __name__ == "__main__":
    main()
