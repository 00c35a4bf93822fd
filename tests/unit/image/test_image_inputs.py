"""The lock of an image's inputs, and how they are fetched: the mirror is hostile here."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from garrison.errors import Malformed, Unavailable, Unverified
from garrison.image import fetch, lock
from garrison.image.fetch import Inputs
from garrison.image.lock import Input, Lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_CONTENT = b"a package" * 1000
_ITEM = Input(
    "zlib1g",
    "1:1.3",
    "pool/main/z/zlib1g_1%3a1.3_amd64.deb",
    hashlib.sha256(_CONTENT).hexdigest(),
    len(_CONTENT),
    "because",
)
_LOCK = Lock("trixie", 1, (_ITEM,), ())


def test_the_lock_of_this_release_reads_and_writes() -> None:
    assert lock.read().to_bytes() == lock.LOCK.read_bytes()


def test_every_input_of_this_release_has_a_reason() -> None:
    found = lock.read()
    assert all(each.why for each in (*found.packages, *found.wheels))
    assert {each.name for each in found.wheels} >= {"cryptography", "wasmtime"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../zlib"),
        ("version", ""),
        ("path", "/etc/passwd"),
        ("path", "pool/../../x"),
        ("path", "http://evil/x"),
        ("sha256", "00"),
        ("size", 0),
        ("size", 1 << 40),
        ("size", True),
        ("why", ""),
        ("why", "\x1b[2J"),
        ("more", 1),
    ],
)
def test_a_lock_with_an_odd_input_is_refused(field: str, value: object) -> None:
    document = json.loads(_LOCK.to_bytes())
    document["packages"][0][field] = value
    with pytest.raises(Malformed, match=r"inputs: packages\[0\]"):
        Lock.from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"format": 2}, "format"),
        ({"suite": "../sid"}, "suite"),
        ({"source_date_epoch": -1}, "source_date_epoch"),
        ({"more": 1}, "text"),
        ({"wheels": [{}]}, "wheels[0]"),
    ],
)
def test_a_lock_of_another_form_is_refused(change: dict[str, Any], where: str) -> None:
    document = {**json.loads(_LOCK.to_bytes()), **change}
    with pytest.raises(Malformed) as refused:
        Lock.from_bytes(json.dumps(document).encode())
    assert refused.value.field == f"inputs: {where}"


def test_a_lock_names_each_input_once() -> None:
    twice = Lock("trixie", 1, (_ITEM, _ITEM), ())
    with pytest.raises(Malformed, match="names in order, each once"):
        Lock.from_bytes(twice.to_bytes())


@pytest.mark.parametrize("data", [b"", b"[", b"[]", b"\xff", b"[" * 100_000], ids=range(5))
def test_a_lock_that_is_no_lock_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        Lock.from_bytes(data)


@contextmanager
def _mirror(files: Mapping[str, bytes]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/debian/"
        finally:
            server.shutdown()
            thread.join()


_PLACE = "/debian/pool/main/z/zlib1g_1%253a1.3_amd64.deb"


def test_what_is_fetched_is_kept(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path / "inputs")
    counted: list[int] = []
    with _mirror({_PLACE: _CONTENT}) as url:
        inputs.fetch(_LOCK, url, counted.append)
    assert sum(counted) == len(_CONTENT)
    assert inputs.missing([_ITEM]) == []
    assert inputs.read(_ITEM) == _CONTENT
    # Nobody is asked again: the mirror is gone.
    inputs.fetch(_LOCK, url, counted.append)


@pytest.mark.parametrize(
    "content", [_CONTENT[:-1], _CONTENT + b"x", b"", b"b" + _CONTENT[1:]], ids=range(4)
)
def test_what_a_mirror_changed_is_refused_and_not_kept(tmp_path: Path, content: bytes) -> None:
    inputs = Inputs(tmp_path)
    with _mirror({_PLACE: content}) as url, pytest.raises(Unverified, match=_ITEM.sha256):
        inputs.fetch(_LOCK, url, lambda _count: None)
    assert list(tmp_path.iterdir()) == []


def test_what_a_mirror_no_longer_has_is_named(tmp_path: Path) -> None:
    with _mirror({}) as url, pytest.raises(Unavailable) as refused:
        Inputs(tmp_path).fetch(_LOCK, url, lambda _count: None)
    assert refused.value.found == "404"
    assert "snapshot" in str(refused.value.hint)


def test_a_login_in_the_name_of_a_mirror_is_told_to_nobody(tmp_path: Path) -> None:
    with _mirror({}) as url:
        named = url.replace("//", "//jane:s3cret@")
        for place in (named, named.replace("http:", "https:"), "https://jane:s3cret@h:99999"):
            with pytest.raises(Unavailable) as refused:
                Inputs(tmp_path).fetch(_LOCK, place, lambda _count: None)
            assert "s3cret" not in str(refused.value)


def test_what_debians_mirror_no_longer_has_comes_from_its_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was when the lock was made; from nowhere else, and checked like all."""
    place = _PLACE.replace("/debian", "/debian/archive/19700101T000001Z")
    with _mirror({place: _CONTENT}) as url:
        monkeypatch.setattr(fetch, "MIRROR", url)
        monkeypatch.setattr(fetch, "SNAPSHOT", f"{url}archive")
        Inputs(tmp_path).fetch(_LOCK, url, lambda _: None)
        assert Inputs(tmp_path).read(_ITEM) == _CONTENT


def test_a_mirror_that_is_not_there_is_named(tmp_path: Path) -> None:
    with _mirror({}) as url:
        pass
    with pytest.raises(Unavailable, match="cannot be fetched") as refused:
        Inputs(tmp_path).fetch(_LOCK, url, lambda _count: None)
    assert "--mirror" in str(refused.value.hint)


def test_a_cache_that_was_changed_is_refused(tmp_path: Path) -> None:
    (tmp_path / _ITEM.sha256).write_bytes(b"something else")
    with pytest.raises(Unverified, match="is not what the lock names"):
        Inputs(tmp_path).read(_ITEM)
