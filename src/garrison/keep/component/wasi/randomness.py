"""wasi:random: random bytes. What WASI calls insecure is as good here as the rest."""

from __future__ import annotations

import os

from garrison.keep.engine.failures import Trap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.component.host import Host

WIT = """
package wasi:random;
interface random {
    get-random-bytes: func(len: u64) -> list<u8>;
    get-random-u64: func() -> u64;
}
interface insecure {
    get-insecure-random-bytes: func(len: u64) -> list<u8>;
    get-insecure-random-u64: func() -> u64;
}
interface insecure-seed {
    insecure-seed: func() -> tuple<u64, u64>;
}
"""

# All is made before any of it is given; nobody needs as much.
MAX_RANDOM = 1 << 24


def random_get_random_bytes(_host: Host, size: int) -> bytes:
    """Give random bytes, from the kernel."""
    if size > MAX_RANDOM:
        raise Trap(f"the guest failed: it asks for more than {MAX_RANDOM} random bytes at once")
    return os.urandom(size)


def random_get_random_u64(_host: Host) -> int:
    """Give a random number."""
    return int.from_bytes(os.urandom(8), "little")


insecure_get_insecure_random_bytes = random_get_random_bytes
insecure_get_insecure_random_u64 = random_get_random_u64


def insecure_seed_insecure_seed(host: Host) -> tuple[int, int]:
    """Give random numbers for hash tables: the same each time, as the value that it may become."""
    if host.seed is None:
        host.seed = random_get_random_u64(host), random_get_random_u64(host)
    return host.seed
