"""Checking a store: every byte against its digests, every name against what it must stand for.

It reads and changes nothing, and may run while others write. What it checks:

- every key is one that a drawbridge writes;
- every user, repository, tag and node of a tree can be read, and what it is in exists: a
  repository's user, a tag's repository, a node's directory;
- every node is what its directory, or for the root the tag, lists: digests, length, media type;
- the content of every node is there, and has its length and all its digests;
- every content has the SHA-256 that is its key.

A tree that is not whole is no damage: its publisher was interrupted, and can complete it. It is
told of apart, as is content that no name stands for, which `gc` removes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from garrison.drawbridge import rules
from garrison.drawbridge.layout import (
    ASIDE,
    CONTENT,
    PROBE,
    Name,
    content_digest,
    content_key,
    parse_aside,
    parse_key,
)
from garrison.drawbridge.named import Damaged
from garrison.errors import Malformed
from garrison.formats.content_digest import ContentDigest, ContentHasher
from garrison.formats.tree import DIRECTORY_TYPE, MAX_DIRECTORY, Directory, Entry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from garrison.drawbridge.named import Named
    from garrison.drawbridge.store import Store, Stored

T = TypeVar("T")

# Requests to the store at a time: a remote one answers slowly, and hashing has few cores.
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        key: of the object in the store.
        problem: what is wrong, with found and expected.
    """

    key: str
    problem: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found.

    Attributes:
        users: how many there are.
        repositories: how many there are.
        tags: how many there are.
        nodes: directories and files in the trees of tags.
        contents: how many there are, each shared by any number of nodes.
        content_bytes: how long those are together; each was read.
        unnamed: contents that no name stands for, those that were put aside among them.
        incomplete: keys of tags whose trees are not whole.
        findings: what is wrong, in the order of the keys.
    """

    users: int
    repositories: int
    tags: int
    nodes: int
    contents: int
    content_bytes: int
    unnamed: int
    incomplete: tuple[str, ...]
    findings: tuple[Finding, ...]


async def check(store: Store, progress: Callable[[int], None] = lambda _count: None) -> Report:
    """Check the whole store.

    Args:
        store: the store, which may be in use.
        progress: told of every number of bytes of content that was read.

    Raises:
        Unavailable: the store does not answer. What it has lost is a finding.
    """
    return await _Check(store, progress).run()


@dataclass
class _Check:
    store: Store
    progress: Callable[[int], None]
    findings: list[Finding] = field(default_factory=list)
    # What the tags and nodes stand for; None for those that cannot be read.
    entries: dict[Name, Entry | None] = field(default_factory=dict)
    # What each content is, by its key; None for what is not there.
    contents: dict[str, tuple[ContentDigest, int] | None] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)

    async def run(self) -> Report:
        names, aside = await self._names()
        # After the names: content comes before its name, so what they stand for is listed.
        listed = [item async for item in self.store.objects(CONTENT)]
        known = set(names)
        await _each(names, lambda name: self._name(name, known))
        await _each(listed, self._content)
        nodes = [name for name in names if name.kind == "tag tree"]
        await _each(nodes, self._node)
        children: dict[Name, list[Name]] = {}
        for name in nodes:
            if name.path:
                children.setdefault(name.parent(), []).append(name)
        directories = [name for name in nodes if self._is_directory(name)]
        await _each(directories, lambda name: self._directory(name, children.get(name, [])))
        for name in set(children) - set(directories):
            if self.entries.get(name) is not None:
                self._wrong(name.key(), "not a directory, and something is in it")
        for name in names:
            if name.kind == "tag" and _root(name) not in known:
                self.incomplete.add(name.key())
        used = {self._content_key(entry) for name in nodes if (entry := self.entries.get(name))}
        kinds = [name.kind for name in names]
        there = [found for found in self.contents.values() if found is not None]
        return Report(
            users=kinds.count("user"),
            repositories=kinds.count("repository"),
            tags=kinds.count("tag"),
            nodes=len(nodes),
            contents=len(there),
            content_bytes=sum(length for _, length in there),
            unnamed=len((set(self.contents) | aside) - used),
            incomplete=tuple(sorted(self.incomplete)),
            findings=tuple(sorted(self.findings, key=lambda finding: finding.key)),
        )

    def _wrong(self, key: str, problem: object) -> None:
        self.findings.append(Finding(key, str(problem)))

    async def _names(self) -> tuple[list[Name], set[str]]:
        """All names, and the keys of the contents that are put aside."""
        names, aside = [], set()
        async for item in self.store.objects():
            if item.key.startswith((CONTENT, PROBE)):
                continue
            try:
                if item.key.startswith(ASIDE):
                    aside.add(parse_aside(item.key)[0])
                else:
                    names.append(parse_key(item.key))
            except Malformed as error:
                self._wrong(item.key, f"not a key of a drawbridge: {error}")
        return names, aside

    async def _read(self, name: Name) -> Named | None:
        try:
            stored = await self.store.named(name.key())
        except Damaged as error:
            self._wrong(name.key(), "; ".join(error.__notes__))
            return None
        if stored is None:
            self._wrong(name.key(), "listed by the store, but not there")
        return stored

    async def _name(self, name: Name, known: set[Name]) -> None:
        """Check what stands under a name itself, and that what it is in exists."""
        stored = await self._read(name)
        if name.kind in {"tag", "tag tree"}:
            self.entries[name] = None
        if stored is not None:
            try:
                if name.kind == "user":
                    rules.UserRecord.from_bytes(stored.body)
                elif name.kind in {"repository", "repository policy"}:
                    rules.RepositoryConfig.from_bytes(stored.body)
                elif name.kind == "tag yank":
                    rules.Yank.from_bytes(stored.body)
                elif name.kind == "tag":
                    self.entries[name] = rules.tag_entry(stored.type, stored.body)
                else:
                    entry = Entry.from_bytes(stored.body)
                    content_key(entry.workload_digest)
                    self.entries[name] = entry
            except Malformed as error:
                self._wrong(name.key(), error)
        if name.kind == "user":
            return
        parents = {
            "repository": name.owner,
            "repository policy": name.repository,
            "tag": name.repository,
        }
        above = parents.get(name.kind, name.parent)()
        # One that was created after the listing began may be missing in it.
        if above not in known and await self.store.stored(above.key()) is None:
            self._wrong(name.key(), f"in something that does not exist; expected {above.key()}")

    async def _content(self, item: Stored) -> None:
        try:
            wanted = content_digest(item.key)
        except Malformed as error:
            self._wrong(item.key, error)
            return
        found = await self._digest(item.key, item.size)
        if found is not None and found[0].values["sha-256"] != wanted:
            self._wrong(
                item.key,
                f"sha-256 digest mismatch; found {found[0].values['sha-256'].hex()};"
                f" expected {wanted.hex()}",
            )

    async def _digest(self, key: str, length: int) -> tuple[ContentDigest, int] | None:
        """Read the content `key`, once, and keep its digests."""
        if key not in self.contents:
            hasher = ContentHasher()
            try:
                async for piece in await self.store.content(key, length):
                    await asyncio.to_thread(hasher.update, piece)
                    self.progress(len(piece))
            except Damaged as error:
                self._wrong(key, "; ".join(error.__notes__))
                self.contents[key] = None
            else:
                self.contents[key] = hasher.digest(), hasher.length
        return self.contents[key]

    async def _node(self, name: Name) -> None:
        """Check that the content of a node is there, and is what the node says."""
        entry = self.entries[name]
        if entry is None:
            return
        found = await self._digest(self._content_key(entry), entry.length)
        if found is None:
            self._wrong(name.key(), "its content is missing or cannot be read")
            return
        self._compare(name.key(), entry, Entry(*found, entry.type))
        if not name.path:
            tag = self.entries.get(name.parent())
            if tag is not None:
                self._compare(name.key(), tag, entry)

    async def _directory(self, name: Name, children: list[Name]) -> None:
        """Check the nodes in a directory against it."""
        entry = self.entries[name]
        assert entry is not None  # noqa: S101  (those are no directories)
        if entry.length > MAX_DIRECTORY:
            self._wrong(name.key(), f"too long for a directory; found {entry.length} bytes")
            return
        try:
            pieces = await self.store.content(self._content_key(entry), entry.length)
            listed = Directory.from_bytes(b"".join([piece async for piece in pieces]))
        except Damaged:
            return  # a finding already, of the node
        except Malformed as error:
            self._wrong(name.key(), error)
            return
        for child in children:
            found = self.entries[child]
            try:
                wanted = rules.listed_entry(child.path[-1], listed)
            except Malformed as error:
                self._wrong(child.key(), error.message)
                continue
            if wanted is not None and found is not None:
                self._compare(child.key(), wanted, found)
        if listed.entries.keys() - {child.path[-1] for child in children}:
            self.incomplete.add(Name("tag", name.user, name.repo, name.tag).key())

    def _compare(self, key: str, wanted: Entry, found: Entry) -> None:
        try:
            rules.check_listed(wanted, found)
        except Malformed as error:
            self._wrong(key, error)

    def _is_directory(self, name: Name) -> bool:
        entry = self.entries[name]
        return entry is not None and entry.type == DIRECTORY_TYPE

    @staticmethod
    def _content_key(entry: Entry) -> str:
        return content_key(entry.workload_digest)


async def _each(items: Iterable[T], action: Callable[[T], Awaitable[None]]) -> None:
    """Do `action` for each of `items`, some at a time."""
    rest = iter(items)

    async def work() -> None:
        for item in rest:
            await action(item)

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))


def _root(tag: Name) -> Name:
    return Name("tag tree", tag.user, tag.repo, tag.tag)
