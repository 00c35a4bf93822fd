"""LZ4 with fewer sequences: what unpacks it gets the same bytes."""

from __future__ import annotations

import random

import pytest

from garrison.image.squeeze import fewer_sequences


def _sequence(literals: bytes, offset: int = 0, repeated: int = 4) -> bytes:
    """One sequence of a block; without an offset, the last."""

    def rest(number: int) -> bytes:
        if number < 15:
            return b""
        return b"\xff" * ((number - 15) // 255) + bytes(((number - 15) % 255,))

    first, second = len(literals), repeated - 4
    head = bytes((min(first, 15) << 4 | min(second, 15),)) + rest(first) + literals
    return head + (offset.to_bytes(2, "little") + rest(second) if offset else b"")


def _unpacked(packed: bytes) -> tuple[bytes, int]:
    """What the format says that a block holds, and how many sequences it has."""
    out = bytearray()
    at = sequences = 0

    def number(bits: int) -> int:
        nonlocal at
        if bits < 15:
            return bits
        while (more := packed[at]) == 255:
            bits += more
            at += 1
        at += 1
        return bits + more

    while at < len(packed):
        token = packed[at]
        at += 1
        sequences += 1
        literals = number(token >> 4)
        out += packed[at : at + literals]
        at += literals
        if at == len(packed):
            break
        offset = int.from_bytes(packed[at : at + 2], "little")
        at += 2
        for _ in range(number(token & 15) + 4):
            out.append(out[-offset])
    return bytes(out), sequences


@pytest.mark.parametrize("seed", range(20))
def test_the_same_bytes_in_fewer_sequences(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  (test data)
    sizes = (0, 1, 14, 15, 16, 30, 269, 270, 271, 600)
    block = _sequence(chance.randbytes(20), 3, 4)
    short = 1
    for _ in range(200):
        repeated = chance.choice((4, 5, 6, 18, 19, 20, 34, 273, 274, 275, 1000))
        short += repeated < 6
        literals = chance.randbytes(chance.choice(sizes))
        block += _sequence(literals, chance.randint(1, 20), repeated)
    block += _sequence(chance.randbytes(chance.choice(sizes) + 5))
    plain, sequences = _unpacked(block)
    found, left = _unpacked(fewer_sequences(plain, block))
    assert found == plain
    assert left == sequences - short


def test_a_block_of_literals_stays() -> None:
    block = _sequence(bytes(range(100)))
    assert fewer_sequences(bytes(range(100)), block) == block
