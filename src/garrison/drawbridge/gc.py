"""Removing content that no name stands for, while others write.

Content comes before its name, so at any moment there is content that no name stands for yet.
An upload may also find that its content is there already. So nothing that a scan finds without a
name is erased at once. The scheme, with a grace period of G (`docs/adr/0013`):

1. Content without a name that was not written for G is *put aside*: copied under a key of its
   own, then removed from where it was. Readers find it there too.
2. What was put aside more than G ago, and still has no name, is erased. What has a name by then
   is put back where it was.

An upload that stored its content before it was removed in step 1, and gives it a name after the
scan, therefore loses nothing, unless it took longer than G for the last of its two steps. That
step is one small request, which is given up after some minutes; G is an hour at least.

All ages are by the store's clock. Any number of collectors may run, be killed, and run again.
Refused: a store with a name that cannot be read, for nobody knows what it stands for.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.drawbridge.layout import (
    ASIDE,
    CONTENT,
    aside_prefix,
    content_digest,
    content_key,
    parse_aside,
)
from garrison.drawbridge.named import Damaged
from garrison.errors import Malformed, Rejected, Unavailable
from garrison.formats.tree import Entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from garrison.drawbridge.store import Store, Stored


@dataclass(frozen=True, slots=True)
class Collected:
    """What one run did.

    Attributes:
        put_aside: contents that no name stands for, which the next runs may erase.
        erased: contents that were put aside before, and are gone now.
        erased_bytes: how long those were together.
        put_back: contents that were put aside, and have got a name since.
        waiting: contents without a name that are too young to be put aside, or to be erased.
        leftovers: files of writers that were killed.
    """

    put_aside: int = 0
    erased: int = 0
    erased_bytes: int = 0
    put_back: int = 0
    waiting: int = 0
    leftovers: int = 0


async def collect(
    store: Store, grace: timedelta, *, monotonic: Callable[[], float] = time.monotonic
) -> Collected:
    """Run once.

    Args:
        store: the store, which may be in use.
        grace: longer than any upload takes between storing its content and naming it.
        monotonic: tells seconds.

    Raises:
        Rejected: a name in the store cannot be read: `fsck` tells more.
        Unavailable: the store does not answer, or this run takes longer than the grace period.
    """
    started = monotonic()
    now = await store.now()
    # Listed before the scan: what has no name by then, and was there before, has none.
    aside = [item async for item in store.objects(ASIDE)]
    contents = [item async for item in store.objects(CONTENT)]
    named = await _named_contents(store)
    run = f"{int(now.timestamp())}-{secrets.token_hex(8)}"
    put_aside = erased = erased_bytes = put_back = waiting = 0
    for item in aside:
        key, second = _checked_aside(item)
        if key in named and await store.stored(key) is None:
            put_back += await store.copy(item.key, key)
        if now.timestamp() - second <= grace.total_seconds():
            waiting += key not in named
            continue
        await store.remove(item.key)
        if key not in named:
            erased, erased_bytes = erased + 1, erased_bytes + item.size
    for item in contents:
        if item.key in named:
            continue
        # Once more: somebody may have stored it again since it was listed.
        current = await store.stored(item.key)
        if current is None:
            continue
        if _is_young(current, now, grace):
            waiting += 1
            continue
        if not await store.copy(item.key, aside_prefix(item.key) + run):
            continue
        # The copy must not have been erased by another run before the original goes.
        if grace and monotonic() - started > grace.total_seconds() / 2:
            raise Unavailable(
                "the collection took too long, and was given up",
                expected=f"less than half of the grace period of {grace}",
                hint="run it again with a longer one",
            )
        await store.remove(item.key)
        put_aside += 1
    leftovers = await store.remove_leftovers(now - grace)
    return Collected(put_aside, erased, erased_bytes, put_back, waiting, leftovers)


async def _named_contents(store: Store) -> set[str]:
    """The keys of all contents that a name stands for."""
    found = set()
    async for item in store.objects("trees/"):
        try:
            stored = await store.named(item.key)
            if stored is not None:
                found.add(content_key(Entry.from_bytes(stored.body).workload_digest))
        except (Malformed, Damaged) as error:
            raise Rejected(
                "cannot be read, so nothing is removed",
                field=item.key,
                hint="`garrison drawbridge fsck` names all that is wrong",
            ) from error
    return found


def _checked_aside(item: Stored) -> tuple[str, int]:
    try:
        return parse_aside(item.key)
    except Malformed as error:
        raise Rejected(
            "was not put there by a drawbridge, so nothing is removed", field=item.key
        ) from error


def _is_young(item: Stored, now: datetime, grace: timedelta) -> bool:
    try:
        content_digest(item.key)
    except Malformed:
        # Not ours: `fsck` names it, and whoever put it there removes it.
        return True
    return now - item.modified < grace
