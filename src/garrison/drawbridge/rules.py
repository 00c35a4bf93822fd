"""What may be put into a drawbridge, and who may read what. Pure: values in, decisions out.

Putting:
- a user's record names the subject of whoever puts it;
- a repository, a tag and a tree are put by the user in whose name they are;
- a node of a tree is put after the directory (for the root: the tag) that lists it, and is
  exactly what is listed there: digests, length and media type (one exception: `listed_entry`);
- nothing that exists is ever changed.

Reading:
- a public repository: everybody;
- a private one: its owner, by token; a keep whose certificate one of the repository's `keeps`
  entries describes; and the steward, who looks up digests and so reads tags, not trees;
- a user's record and a repository's configuration: their owner alone.

A refusal does not tell whether a private repository exists: who may not read it is answered as
for one that does not exist.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from garrison.errors import Malformed
from garrison.formats.digest import digest_text, parse_digest
from garrison.formats.oci_name import Name, parse_name
from garrison.formats.semver import Version
from garrison.formats.signed_tag import JWS_TYPE, MAX_SIGNED, payload_entry
from garrison.formats.tree import DIRECTORY_TYPE, ENTRY_TYPE, Directory, Entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from garrison.formats.content_digest import ContentDigest
    from garrison.formats.identity import WorkloadIdentity

JSON_TYPE = "application/json"

# A subject is at most 255 characters (OpenID Connect Core 1.0, section 2).
MAX_SUBJECT = 255
MAX_USER = 1024
# Some hundred keeps.
MAX_REPOSITORY = 64 * 1024
MAX_TAG = MAX_SIGNED
MAX_KEEPS = 100
MAX_YANK = 4096
MAX_REASON = 500
# The configuration of each repository that is listed is read.
MAX_PAGE = 100
NUMBER_PATTERN = r"[1-9][0-9]{0,8}"
TEE_PATTERN = r"[a-z0-9-]{1,32}"
MEASUREMENT_PATTERN = r"(?:[0-9a-f]{2}){16,64}"


@dataclass(frozen=True, slots=True)
class UserRecord:
    """Which OpenID Connect subject a user is."""

    subject: str

    @classmethod
    def from_bytes(cls, data: bytes) -> UserRecord:
        """Read the JSON document.

        Raises:
            Malformed: `data` is anything else.
        """
        fields = _object(data, "user record", {"subject"})
        subject = fields.get("subject")
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT:
            raise Malformed("not a subject", field="user record subject", found=_short(subject))
        return cls(subject)

    def to_bytes(self) -> bytes:
        """Write the JSON document."""
        return _dump({"subject": self.subject})


@dataclass(frozen=True, slots=True)
class Yank:
    """Why a tag should not be used any more."""

    reason: str

    @classmethod
    def from_bytes(cls, data: bytes) -> Yank:
        """Read the JSON document.

        Raises:
            Malformed: `data` is anything else.
        """
        reason = _object(data, "yank", {"reason"}).get("reason")
        if not isinstance(reason, str) or not 0 < len(reason) <= MAX_REASON:
            raise Malformed(
                "not a reason",
                field="yank reason",
                found=_short(reason),
                expected=f"1 to {MAX_REASON} characters",
            )
        if not reason.isprintable():
            raise Malformed("not one line of text", field="yank reason", found=_short(reason))
        return cls(reason)

    def to_bytes(self) -> bytes:
        """Write the JSON document."""
        return _dump({"reason": self.reason})

    def to_header(self) -> str:
        """The value of `Garrison-Yanked`: the reason, percent-encoded (RFC 3986)."""
        return quote(self.reason, safe=" ")


@dataclass(frozen=True, slots=True)
class KeepRule:
    """Keeps that may read a private repository: all whose certificate has every field given here.

    Attributes:
        tee: the kind of TEE, such as `snp`.
        measurement: the launch measurement.
        slug: the workload that the certificate names.
        digest: that workload's digest.
    """

    tee: str | None = None
    measurement: bytes | None = None
    slug: Name | None = None
    digest: bytes | None = None

    def __post_init__(self) -> None:
        if not self._fields():
            raise Malformed(
                "an empty rule would admit every keep",
                field="keeps",
                expected="at least one of tee, measurement, slug, digest",
            )

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> KeepRule:
        """Read a rule from the texts that JSON and the command line have for its fields.

        Raises:
            Malformed: a field is unknown or unreadable, or there is none.
        """
        _known(fields, "keeps", {"tee", "measurement", "slug", "digest"})
        for name, value in fields.items():
            if not isinstance(value, str):
                raise Malformed("not a string", field=f"keeps {name}", found=_short(value))
        tee, measurement = fields.get("tee"), fields.get("measurement")
        if tee is not None and re.fullmatch(TEE_PATTERN, tee) is None:
            raise Malformed("not a TEE", field="keeps tee", found=_short(tee), expected="as snp")
        if measurement is not None and re.fullmatch(MEASUREMENT_PATTERN, measurement) is None:
            raise Malformed(
                "not a measurement",
                field="keeps measurement",
                found=_short(measurement),
                expected="16 to 64 bytes in lower-case hex",
            )
        slug, digest = fields.get("slug"), fields.get("digest")
        return cls(
            tee,
            None if measurement is None else bytes.fromhex(measurement),
            None if slug is None else parse_name(slug),
            None if digest is None else parse_digest(digest, field="keeps digest"),
        )

    def to_fields(self) -> dict[str, str]:
        """Write the rule as the texts that `from_fields` reads."""
        texts = {
            "tee": self.tee,
            "measurement": None if self.measurement is None else self.measurement.hex(),
            "slug": None if self.slug is None else str(self.slug),
            "digest": None if self.digest is None else digest_text(self.digest),
        }
        return {name: text for name, text in texts.items() if text is not None}

    def admits(self, identity: WorkloadIdentity) -> bool:
        """Tell whether the certificate of `identity` has every field given here."""
        return all(getattr(identity, name) == wanted for name, wanted in self._fields().items())

    def _fields(self) -> dict[str, object]:
        fields = {
            "tee": self.tee,
            "measurement": self.measurement,
            "slug": self.slug,
            "digest": self.digest,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    """Who may read a repository.

    Attributes:
        public: whether everybody may.
        keeps: the keeps that may read a private one.
    """

    public: bool
    keeps: tuple[KeepRule, ...] = ()

    def __post_init__(self) -> None:
        if self.public and self.keeps:
            raise Malformed(
                "has no meaning for a public repository",
                field="keeps",
                hint='"public": false keeps all others out',
            )

    @classmethod
    def from_bytes(cls, data: bytes) -> RepositoryConfig:
        """Read the JSON document.

        Raises:
            Malformed: `data` is anything else.
        """
        fields = _object(data, "repository", {"public", "keeps"})
        public, keeps = fields.get("public"), fields.get("keeps", [])
        if not isinstance(public, bool):
            raise Malformed(
                "not a boolean", field="repository public", found=_short(public), expected="boolean"
            )
        if not isinstance(keeps, list) or len(keeps) > MAX_KEEPS:
            raise Malformed(
                "not a list of rules",
                field="keeps",
                found=_short(keeps),
                expected=f"at most {MAX_KEEPS}",
            )
        for rule in keeps:
            if not isinstance(rule, dict):
                raise Malformed("not an object", field="keeps", found=_short(rule))
        return cls(public, tuple(KeepRule.from_fields(rule) for rule in keeps))

    def to_bytes(self) -> bytes:
        """Write the JSON document; without `keeps` it is the original's."""
        document: dict[str, object] = {"public": self.public}
        if self.keeps:
            document["keeps"] = [rule.to_fields() for rule in self.keeps]
        return _dump(document)

    def admits(self, identity: WorkloadIdentity) -> bool:
        """Tell whether a keep with this identity, from a verified certificate, may read."""
        return any(rule.admits(identity) for rule in self.keeps)


def latest(tags: Sequence[str]) -> list[str]:
    """The highest version among `tags`, a release before any pre-release; none if there is none."""
    versions = [(Version.parse(tag), tag) for tag in tags]
    releases = [found for found in versions if not found[0].pre] or versions
    # Versions that differ in their build metadata alone are equal: the last name, then.
    return [max(releases, key=lambda found: (found[0].key, found[1]))[1]] if releases else []


def page(tags: Sequence[str], count: str | None, last: str | None) -> tuple[list[str], bool]:
    """A page of `tags`, which are sorted, and whether more follow.

    Args:
        tags: all.
        count: how many at most, in decimal; None for all.
        last: only those after this name; None for the first page.

    Raises:
        Malformed: `count` is not a number from 1 on.
    """
    left = [tag for tag in tags if last is None or tag > last]
    size = len(left) if count is None else _number(count)
    return left[:size], len(left) > size


def page_size(count: str) -> int:
    """How many repositories are answered at once, where `count` are asked for.

    Raises:
        Malformed: `count` is not a number from 1 on.
    """
    return min(_number(count), MAX_PAGE)


def _number(count: str) -> int:
    if re.fullmatch(NUMBER_PATTERN, count) is None:
        raise Malformed("not a number", field="query n", found=_short(count), expected="1 or more")
    return int(count)


def tag_entry(media_type: str, data: bytes) -> Entry:
    """The entry of the tree's root, from a tag's content.

    Of a signed tag it is the payload; the signature is for readers to verify, and nobody here
    relies on it.

    Raises:
        Malformed: `data` is not a tag's content of that media type.
    """
    check_tag_type(media_type)
    return Entry.from_bytes(data) if media_type == ENTRY_TYPE else payload_entry(data)


def check_tag_type(media_type: str) -> None:
    """Check the media type of a tag's content, in the original's words.

    Raises:
        Malformed: a tag has no such.
    """
    if media_type not in {ENTRY_TYPE, JWS_TYPE}:
        raise Malformed(
            "Invalid content type",
            found=repr(media_type[:100]),
            expected=f"{ENTRY_TYPE} or {JWS_TYPE}",
        )


def listed_entry(name: str, directory: Directory) -> Entry | None:
    """The entry that a directory has for `name`; None for what the original's client leaves out.

    It ends its lists of names after the first directory that is not empty, and then puts all of
    the tree (Drawbridge 0.4.3, crates/type/src/tree/mod.rs, `from_path_sync`). What it leaves out
    is stored for it, though no digest of the tag's pins it: whoever walks down from the tag, as
    keeps do, does not see it.

    Raises:
        Malformed: it has none, and nothing excuses it.
    """
    entry = directory.entries.get(name)
    if entry is None:
        last = max(directory.entries, default=name)
        if last >= name or not _is_full_directory(directory.entries[last]):
            raise Malformed("not listed in its directory", field="tree path", found=name)
    return entry


def _is_full_directory(entry: Entry) -> bool:
    return entry.type == DIRECTORY_TYPE and entry.length > len("{}")


def check_listed(listed: Entry, put: Entry) -> None:
    """Check that what is `put` is what its directory or tag lists.

    Args:
        listed: the entry in the directory or tag.
        put: all four digests, the length and the media type of what was put.

    Raises:
        Malformed: it is something else.
    """
    check_length(listed.length, put.length)
    check_digest(listed.digest, put.digest)
    if listed.type != put.type:
        raise Malformed(
            "Content type mismatch", field="Content-Type", found=put.type, expected=listed.type
        )


def check_length(expected: int, found: int) -> None:
    """Check a length, in the original's words.

    Raises:
        Malformed: it differs.
    """
    if expected != found:
        raise Malformed(f"Content length mismatch, expected: {expected}, got {found}")


def check_digest(expected: ContentDigest, found: ContentDigest) -> None:
    """Check all `expected` digests, in the original's words.

    Raises:
        Malformed: one differs.
    """
    computed = found.to_json()
    for name, value in expected.to_json().items():
        if computed[name] != value:
            raise Malformed(
                "Content digest mismatch",
                found=f"{name} {computed[name]}",
                expected=f"{name} {value}",
            )


def _parse(data: bytes, what: str) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON, with each name once", field=what) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return value


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _object(data: bytes, what: str, names: set[str]) -> dict[str, Any]:
    value = _parse(data, what)
    if not isinstance(value, dict):
        raise Malformed("not an object", field=what, found=_short(value))
    _known(value, what, names)
    return value


def _known(fields: Mapping[str, Any], what: str, names: set[str]) -> None:
    unknown = sorted(set(fields) - names)
    if unknown:
        raise Malformed(
            "unknown field",
            field=what,
            found=_short(unknown[0]),
            expected=" or ".join(sorted(names)),
        )


def _short(value: object) -> str:
    return repr(value)[:150]
