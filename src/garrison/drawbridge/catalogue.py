"""Which repositories there are, for searches: everybody may search, and a store may hold many.

What a listing of the store says is good for some seconds, at this process; what this process
changes itself it knows at once. So however many search, the store is listed a tenth of the time
at most. Whether a repository is public is read for each that is answered, and never from here, but
those that were read and are private are not read again while they look the same in the listing.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import count, islice
from time import monotonic
from typing import TYPE_CHECKING

from garrison.drawbridge.layout import Name
from garrison.drawbridge.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from garrison.drawbridge.store import Store

    # By what a repository is known to be as it was: its configuration, and what is in its place.
    Mark = tuple[str, str | None]

# How old a listing may be, or so many times as old as it took.
_SECONDS = 5.0
_TIMES = 10
# Repositories that are read together at least, though fewer are asked for.
_AT_ONCE = 16
_REPOSITORIES = Name("repository query", "").key()
_POLICIES = "policies/"


class _Index:
    """Names in order, through which a text is looked for without a look at each."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        lines = [name.lower() for name in names]
        # One after the other, and each with a line feed, which is in no name.
        self._text = "\n".join(lines)
        self._starts: list[int] = []
        start = 0
        for line in lines:
            self._starts.append(start)
            start += len(line) + 1

    def matching(self, text: str, last: str) -> Iterator[str]:
        """Those after `last` that have `text` in them, in any case."""
        text = text.lower()
        number = bisect_right(self._names, last)
        while "\n" not in text and number < len(self._names):
            at = self._text.find(text, self._starts[number])
            if at < 0:
                return
            number = bisect_right(self._starts, at) - 1
            yield self._names[number]
            number += 1


class Catalogue:
    """The repositories of a store, as they were a moment ago."""

    def __init__(
        self, store: Store, are_public: Callable[[Sequence[str]], Awaitable[Sequence[bool]]]
    ) -> None:
        """Make one.

        Args:
            store: where the repositories are.
            are_public: reads which of some, `USER/REPO`, are public.
        """
        self._store = store
        self._are_public = are_public
        self._listing = SingleFlight[None, None]()
        self._marks: dict[str, Mark] = {}
        self._private: set[str] = set()
        self._changed: dict[str, Mark] = {}
        self._changes = count()
        self._index: _Index | None = None
        self._until = -1.0

    async def public(self, text: str, last: str, most: int) -> list[str]:
        """The first public repositories, `USER/REPO` in order, that have a text in their name.

        Args:
            text: what is in them, in any case.
            last: only those after this name.
            most: how many.

        Raises:
            StorageFailure: the store does not answer.
        """
        if monotonic() >= self._until:
            await self._listing.do(None, self._list)
        names = self._matching(text, last)
        found: list[str] = []
        while len(found) < most and (some := list(islice(names, max(most, _AT_ONCE)))):
            marks = [self._marks.get(name) for name in some]
            for name, mark, is_public in zip(
                some, marks, await self._are_public(some), strict=True
            ):
                if is_public:
                    found.append(name)
                elif mark is not None and self._marks.get(name) == mark:
                    # Else it has changed since it was read.
                    self._private.add(name)
        return found[:most]

    def _matching(self, text: str, last: str) -> Iterator[str]:
        if self._index is None:
            self._index = _Index(sorted(self._marks.keys() - self._private))
        # Some were found to be private since it was made.
        names = self._index.matching(text, last)
        return (name for name in names if name not in self._private)

    def changed(self, name: str) -> None:
        """Take note that `name` was made, or that what holds for it was replaced."""
        # A listing that is under way may not have it.
        self._changed[name] = self._marks[name] = (f"change {next(self._changes)}", None)
        self._private.discard(name)
        self._index = None

    async def _list(self) -> None:
        begun = monotonic()
        self._changed = {}
        policies = {
            stored.key.removeprefix(_POLICIES): stored.mark
            async for stored in self._store.objects(_POLICIES)
        }
        marks: dict[str, Mark] = {}
        async for stored in self._store.objects(_REPOSITORIES):
            name = stored.key.removeprefix(_REPOSITORIES)
            marks[name] = (stored.mark, policies.get(name))
        marks |= self._changed
        self._private = {name for name in self._private if self._marks[name] == marks.get(name)}
        self._marks, self._index = marks, None
        ended = monotonic()
        self._until = ended + max(_SECONDS, _TIMES * (ended - begun))
