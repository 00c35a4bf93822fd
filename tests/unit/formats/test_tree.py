"""Trees: one spelling of a directory, bounded everything, and the digest of a workload."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed, Misuse
from garrison.formats import tree
from garrison.formats.content_digest import ContentDigest
from garrison.formats.tree import DIRECTORY_TYPE, Directory, Entry, Package, parse_path

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"main.wasm": b"\0asm", "Enarx.toml": b"args = []\n", "a/b/c": b"deep", "a/d": b""}


def dumped(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def entry(content: bytes, **members: Any) -> dict[str, Any]:
    return {
        "digest": ContentDigest.of(content).to_json(),
        "length": len(content),
        "type": "application/octet-stream",
        **members,
    }


def test_the_digest_of_a_workload_is_the_sha_256_of_the_root_directory() -> None:
    """Computed here by hand, from the format's description alone."""
    digests = []
    for content in (b"args = []\n", b"\0asm"):
        members = [
            f'"sha-{size}":"{b64encode(hashlib.new(f"sha{size}", content).digest()).decode()}"'
            for size in (224, 256, 384, 512)
        ]
        digests.append("{" + ",".join(members) + "}")
    root = (
        '{"Enarx.toml":{"digest":' + digests[0] + ',"length":10,"type":"application/toml"},'
        '"main.wasm":{"digest":' + digests[1] + ',"length":4,"type":"application/wasm"}}'
    )
    package = Package({"main.wasm": b"\0asm", "Enarx.toml": b"args = []\n"})
    assert package.nodes()[""][1] == root.encode()
    assert package.digest == hashlib.sha256(root.encode()).digest()


def test_nodes_come_in_the_order_of_paths_parents_first() -> None:
    nodes = Package(FILES).nodes()
    assert list(nodes) == ["", "Enarx.toml", "a", "a/b", "a/b/c", "a/d", "main.wasm"]
    for path, (found, content) in nodes.items():
        assert found == Entry.of(content, found.type)
        if path:
            parent, _, name = path.rpartition("/")
            assert Directory.from_bytes(nodes[parent][1]).entries[name] == found


def test_the_digest_depends_on_every_name_and_byte() -> None:
    base = Package(FILES).digest
    assert Package({**FILES, "a/d": b"x"}).digest != base
    assert Package({**FILES, "a/e": b""}).digest != base
    assert Package(dict(reversed(FILES.items()))).digest == base


def test_an_entry_keeps_its_custom_members() -> None:
    value = entry(b"x", author="jane", nested={"ä": [1, None, True]})
    assert Entry.from_json(value, "entry").to_json() == value
    content = json.dumps({"x": value}, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    assert Directory.from_bytes(content.encode()).to_bytes() == content.encode()


@pytest.mark.parametrize(
    "change",
    [
        {"digest": None},
        {"digest": {}},
        {"digest": {"sha-256": "x"}},
        {"digest": {"md5": "x"}},
        {"length": None},
        {"length": -1},
        {"length": True},
        {"length": 1.0},
        {"length": "1"},
        {"length": 1 << 63},
        {"type": None},
        {"type": "wasm"},
        {"type": "a/b\nX-Evil: 1"},
        {"type": "a/" + "b" * 500},
    ],
)
def test_a_broken_member_of_an_entry_is_malformed(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        Entry.from_bytes(dumped(entry(b"x") | change))


@pytest.mark.parametrize(
    "member", ["NaN", "[Infinity]", "-Infinity", "1e999", r'"\ud800"', r'{"\udfff":1}']
)
def test_a_custom_member_that_other_readers_refuse_is_malformed(member: str) -> None:
    data = dumped(entry(b"x"))
    assert Entry.from_bytes(data[:-1] + b',"x":[1.5,"\xc3\xa9"]}').custom
    with pytest.raises(Malformed, match="JSON"):
        Entry.from_bytes(data[:-1] + f',"x":{member}}}'.encode())


@pytest.mark.parametrize("name", ["digest", "length", "type"])
def test_a_missing_member_of_an_entry_is_malformed(name: str) -> None:
    value = entry(b"x")
    del value[name]
    with pytest.raises(Malformed, match=name):
        Entry.from_bytes(dumped(value))


NAMES = ["", ".", "..", "a/b", "ä", "a b", "a\0", "a\n", "~", "%2e", "x" * 256]


@pytest.mark.parametrize("name", NAMES)
def test_other_names_are_malformed(name: str) -> None:
    with pytest.raises(Malformed):
        Directory.from_bytes(dumped({name: entry(b"x")}))


@pytest.mark.parametrize("name", ["main.wasm", "...", "a:b", "-_.", "x" * 255])
def test_names_of_the_original_are_read(name: str) -> None:
    assert list(Directory.from_bytes(dumped({name: entry(b"x")})).entries) == [name]


GOOD = dumped({"a": entry(b"x"), "b": entry(b"y")})


@pytest.mark.parametrize(
    "data",
    [
        GOOD + b"\n",
        b" " + GOOD,
        GOOD.replace(b":", b": ", 1),
        GOOD.replace(b'"a"', b'"\\u0061"'),
        json.dumps({"b": entry(b"y"), "a": entry(b"x")}, separators=(",", ":")).encode(),
        GOOD[:-1] + b',"b":' + dumped(entry(b"z")) + b"}",
        dumped({"a": entry(b"x", f=1)}).replace(b'"f":1', b'"f":1e0'),
        dumped({"a": entry(b"x", f=1)}).replace(b'"f":1', b'"f":1e999'),
        dumped({"a": entry(b"x", f=1)}).replace(b'"f":1', b'"f":NaN'),
        dumped({"a": entry(b"x", f=1)}).replace(b'"f":1', b'"f":"\\ud800"'),
        dumped({"a": entry(b"x", f=1)}).replace(b'"f":1', b'"f":' + b"[" * 5000 + b"]" * 5000),
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"{",
        b'{"a":1}',
        b'{"a":' + b"9" * 5000 + b"}",
        b" " * (tree.MAX_DIRECTORY + 1),
    ],
)
def test_a_directory_has_one_spelling(data: bytes) -> None:
    with pytest.raises(Malformed):
        Directory.from_bytes(data)


@pytest.mark.parametrize(
    ("start", "inner", "end"), [("[", "", "]"), ("[", "1", "]"), ('{"f":', "1", "}")]
)
def test_custom_members_nest_so_deep_and_no_deeper(start: str, inner: str, end: str) -> None:
    def nested(count: int) -> bytes:
        member = start * count + inner + end * count
        return dumped({"a": entry(b"x", f=1)}).replace(b'"f":1', f'"f":{member}'.encode())

    deepest = nested(tree.MAX_NESTING)
    assert Directory.from_bytes(deepest).to_bytes() == deepest
    with pytest.raises(Malformed, match="nested too deep"):
        Directory.from_bytes(nested(tree.MAX_NESTING + 1))


@pytest.mark.parametrize("bracket", ["[]", "{}", '"["'])
def test_a_directory_has_so_many_lists_and_objects_and_no_more(bracket: str) -> None:
    def holding(count: int) -> bytes:
        # Three besides: of the directory, the entry, and its digests; and that of `f`.
        member = "[" + ",".join([bracket] * (count - 4)) + "]"
        return dumped({"a": entry(b"x", f=1)}).replace(b'"f":1', f'"f":{member}'.encode())

    most = holding(tree.MAX_BRACKETS)
    assert Directory.from_bytes(most).to_bytes() == most
    with pytest.raises(Malformed, match="too many lists and objects"):
        Directory.from_bytes(holding(tree.MAX_BRACKETS + 1))


def test_the_most_names_that_fit_have_fewer_lists_and_objects() -> None:
    """So the limit is one of custom members alone."""
    shortest = Entry(ContentDigest({"sha-256": b"\0" * 32}), 0, "a/b")
    one, two = (Directory(dict.fromkeys(names, shortest)).to_bytes() for names in ("a", "ab"))
    size = len(two) - len(one)
    assert 2 * (tree.MAX_DIRECTORY // size) < tree.MAX_BRACKETS


@given(st.binary() | st.text().map(str.encode) | st.binary().map(lambda b: GOOD[:40] + b))
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    for parse in (Directory.from_bytes, Entry.from_bytes):
        try:
            parsed = parse(data)
        except Malformed:
            continue
        assert parse(parsed.to_bytes()) == parsed


def test_a_flipped_byte_never_parses_to_the_same() -> None:
    whole = Directory.from_bytes(GOOD)
    for index in range(len(GOOD)):
        flipped = GOOD[:index] + bytes([GOOD[index] ^ 1]) + GOOD[index + 1 :]
        try:
            assert Directory.from_bytes(flipped) != whole
        except Malformed:
            continue


def test_the_digest_of_an_entry_without_sha_256_is_refused() -> None:
    value = entry(b"x", type=DIRECTORY_TYPE)
    del value["digest"]["sha-256"]
    with pytest.raises(Malformed, match="sha-256"):
        _ = Entry.from_json(value, "entry").workload_digest


@pytest.mark.parametrize(
    ("text", "expected"), [("", ()), ("a", ("a",)), ("a/b.c/d:e", ("a", "b.c", "d:e"))]
)
def test_paths(text: str, expected: tuple[str, ...]) -> None:
    assert parse_path(text) == expected


@pytest.mark.parametrize("text", ["/", "a/", "/a", "a//b", "../a", "a/..", "a/" * 16 + "a"])
def test_other_paths_are_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_path(text)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"other.wasm": b""},
        {"main.wasm": b"", "": b""},
        {"main.wasm": b"", "a": b"", "a/b": b""},
        {"main.wasm": b"", "../x": b""},
        {"main.wasm": b"", "/etc/passwd": b""},
        {"main.wasm": b"", "Enarx.toml": bytes(tree.MAX_DIRECTORY + 1)},
    ],
)
def test_other_packages_are_malformed(files: dict[str, bytes]) -> None:
    with pytest.raises(Malformed):
        Package(files)


def test_limits_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_PACKAGE", 10)
    Package({"main.wasm": bytes(10)})
    with pytest.raises(Malformed, match="too large"):
        Package({"main.wasm": bytes(10), "a": b"x"})
    monkeypatch.setattr(tree, "MAX_FILES", 2)
    with pytest.raises(Malformed, match="too large"):
        Package({"main.wasm": b"", "a": b"", "b": b""})


@pytest.mark.parametrize(
    ("limit", "value", "text"),
    [
        # The root, a directory and two files.
        ("MAX_FILES", 3, "4 files and directories"),
        ("MAX_PACKAGE", 500, "too large a package"),
        ("MAX_DIRECTORY", 500, "root directory: too many files in one directory"),
    ],
)
def test_a_package_that_could_not_be_fetched_has_no_digest(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int, text: str
) -> None:
    package = Package({"main.wasm": b"", "sub/a": b""})
    assert len(package.nodes()) == 4
    monkeypatch.setattr(tree, limit, value)
    with pytest.raises(Malformed, match=text):
        _ = Package(package.files).digest


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return directory


def test_a_package_is_read_from_a_directory(tmp_path: Path) -> None:
    assert Package.from_directory(write(tmp_path, FILES)).files == FILES


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    (tmp_path / "a" / "link").symlink_to("/etc/passwd")
    with pytest.raises(Malformed, match="a/link") as caught:
        Package.from_directory(tmp_path)
    assert "neither a file nor a directory" in str(caught.value)


def test_a_file_that_is_too_large_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "MAX_FILE", 3)
    with pytest.raises(Malformed, match=r"main\.wasm: too large"):
        Package.from_directory(write(tmp_path, {"main.wasm": b"1234"}))


def test_what_is_no_directory_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="not a directory"):
        Package.from_directory(tmp_path / "nothing")


def test_the_digests_of_a_package_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []

    def of(content: bytes, media_type: str) -> Entry:
        computed.append(content)
        return Entry(ContentDigest.of(content), len(content), media_type)

    monkeypatch.setattr(Entry, "of", of)
    package = Package(FILES)
    nodes = dict(package.nodes())
    assert dict(package.nodes()) == nodes
    assert package.digest == package.entry.workload_digest
    assert sorted(computed) == sorted(content for _, content in nodes.values())
