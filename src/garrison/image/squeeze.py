"""Compresses a file with LZ4. Run by the image's Python with the inputs' library.

`python squeeze.py` reads from standard input, as JSON: `source` and `target`, files, and `level`.
The same library gives the same bytes anywhere; the library of the machine that builds may not.

Format: LZ4, doc/lz4_Frame_format.md, "Legacy frame", which is the one that Linux reads: a magic
number, then blocks of 8 MiB, each with its compressed size before it. Each is a series of sequences
(doc/lz4_Block_format.md): so many bytes as they are, then so many that stood there before.

Emulated, what unpacks it is busy with sequences, not with bytes, and a repetition of 4 or 5 bytes
saves one or two. So the bytes of such are written as they are: of five sequences that leaves three,
for a tenth more of the size.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

_MAGIC = 0x184C2102
_BLOCK = 8 << 20
# What a repetition has at least: of the format, and here.
_LEAST = 4
_WORTH = 6
# A number in a sequence's first byte has four bits; if they are full, bytes follow, the last of
# which is not full.
_FULL = 15
_MORE = 255


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
            packed = fewer_sequences(block, bytes(memoryview(out)[:size]))
            file.write(len(packed).to_bytes(4, "little"))
            file.write(packed)


def fewer_sequences(plain: bytes, packed: bytes) -> bytes:
    """Write a block again without the repetitions that save next to nothing.

    Args:
        plain: what it holds.
        packed: the block.
    """
    out = bytearray()
    # Where it is read, how much of `plain` was read, and how much of that is written.
    at = read = written = 0
    while True:
        token = packed[at]
        at += 1
        literals = token >> 4
        if literals == _FULL:
            while packed[at] == _MORE:
                literals += _MORE
                at += 1
            literals += packed[at]
            at += 1
        at += literals
        read += literals
        if at == len(packed):
            _put(out, plain[written:], b"", _LEAST)
            return bytes(out)
        offset = packed[at : at + 2]
        at += 2
        repeated = (token & _FULL) + _LEAST
        if token & _FULL == _FULL:
            while packed[at] == _MORE:
                repeated += _MORE
                at += 1
            repeated += packed[at]
            at += 1
        if repeated >= _WORTH:
            _put(out, plain[written:read], offset, repeated)
            written = read + repeated
        read += repeated


def _put(out: bytearray, literals: bytes, offset: bytes, repeated: int) -> None:
    first, second = len(literals), repeated - _LEAST
    out.append(min(first, _FULL) << 4 | min(second, _FULL))
    _put_rest(out, first)
    out += literals
    out += offset
    _put_rest(out, second)


def _put_rest(out: bytearray, number: int) -> None:
    """Write what of a number does not fit into the first byte."""
    if number >= _FULL:
        full, rest = divmod(number - _FULL, _MORE)
        out += bytes((_MORE,)) * full
        out.append(rest)


if __name__ == "__main__":
    main()
