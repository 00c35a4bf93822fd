"""`/key` and `/attest`: keys, the identity of the keep, and evidence, for the workload to use.

- `generate`: write an algorithm's name, read the UUID of a new pair.
- `trust`: write a public key (JSON Web Key), read the UUID that it has here.
- `<uuid>/share`: read the public half, a JSON Web Key.
- `<uuid>/sign`: write a message, read its signature. Not there for somebody else's key.
- `<uuid>/verify`: write a signature and the message, read `verified`; a wrong one is `BADMSG`.
- `identity/chain`: read the certificate chain of the keep as it is now, PEM, the leaf first.
- `identity/share`, `identity/sign`, `identity/verify`: the key of that certificate.
- `/attest/report`: write at most 64 bytes, read evidence that is bound to them and the workload.

A file takes what is written until it is read (`dynamic.Exchange`). `identity` and `/attest` are
there only if the keep has an identity.
"""

from garrison.errors import Unverified
from garrison.keep.vfs import descriptor as d
from garrison.keep.vfs import errno
from garrison.keep.vfs.ceiling import Ceiling
from garrison.keep.vfs.dynamic import Exchange, Opened
from garrison.keep.vfs.errno import Errno
from garrison.keep.vfs.nodes import Directory, File, Node
from garrison.keep.vfs.refusals import told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from garrison.keep.keyring import Feed, Key, Keyring
    from garrison.keep.vfs.descriptor import Descriptor

    class Bearer(Protocol):
        """Whose keep it is (`garrison.keep.identity`)."""

        def chain_pem(self) -> bytes: ...  # noqa: D102
        def key(self) -> Key: ...  # noqa: D102
        def report(self, data: bytes) -> bytes: ...  # noqa: D102


# `jwk.MAX_SIZE`, which is not imported for it brings the certificate library along.
_MAX_PUBLIC = 16 * 1024
_MAX_NAME = 16
# What evidence is bound to beside the workload: as much as the report data of a TEE.
MAX_NONCE = 64


class _Text:
    """A question of few bytes, which is answered when it is whole."""

    def __init__(self, what: str, most: int, ask: "Callable[[bytes], bytes]") -> None:
        self._what = what
        self._most = most
        self._ask = ask
        self._text = bytearray()

    def add(self, data: memoryview) -> None:
        if len(self._text) + len(data) > self._most:
            raise Errno(errno.MSGSIZE)
        self._text += data

    def answer(self) -> bytes:
        return told(self._what, lambda: self._ask(bytes(self._text)))


class _Verified:
    """A verification whose failure is the guest's to judge, and nothing for the log."""

    def __init__(self, feed: "Feed") -> None:
        self.add = feed.add
        self._answer = feed.answer

    def answer(self) -> bytes:
        try:
            return self._answer()
        except Unverified as error:
            raise Errno(errno.BADMSG) from error


class _Keys(Directory):
    """`/key`: what is always there, and a directory for each key."""

    def __init__(self, entries: list[tuple[str, Node]]) -> None:
        super().__init__(None, entries)
        self.ring: Keyring | None = None
        self._made: dict[str, Directory] = {}

    def lookup(self, name: str) -> Node | None:
        """What `name` stands for: a fixed entry, or the key of that UUID."""
        found = super().lookup(name)
        if found is not None or self.ring is None:
            return found
        key = self.ring.get(name)
        if key is None:
            return None
        if name not in self._made:
            self._made[name] = Directory(None, _files(lambda: key, signs=key.can_sign()))
        return self._made[name]

    def listing(self) -> list[tuple[str, int, int]]:
        """All names, with number and type of each."""
        found = super().listing()
        for name in self.ring.names() if self.ring is not None else ():
            node = self.lookup(name)
            if node is not None:
                found.append((name, node.ino, node.filetype))
        return found


def key_directory(bearer: "Bearer | None", most: int) -> Directory:
    """Make `/key`.

    Args:
        bearer: whose keep it is; None if it has no identity.
        most: how many keys there may be.
    """
    ceiling = Ceiling("keys", most)

    def added(add: "Callable[[Keyring], str]") -> bytes:
        if directory.ring is None:
            from garrison.keep.keyring import Keyring  # late: few guests have keys

            directory.ring = Keyring()
        if len(directory.ring) >= most:
            ceiling.reached()
            raise Errno(errno.NOSPC)
        return add(directory.ring).encode()

    def generate(name: bytes) -> bytes:
        text = name.decode("ascii", "replace").strip()
        return added(lambda ring: ring.generate(text))

    def trust(public: bytes) -> bytes:
        return added(lambda ring: ring.trust(public))

    entries: list[tuple[str, Node]] = [
        ("generate", _text("/key/generate", _MAX_NAME, generate)),
        ("trust", _text("/key/trust", _MAX_PUBLIC, trust)),
    ]
    if bearer is not None:
        files = [("chain", _read(bearer.chain_pem)), *_files(bearer.key, signs=True)]
        entries.append(("identity", Directory(None, files)))
    directory = _Keys(entries)
    return directory


def attest_directory(bearer: "Bearer") -> Directory:
    """Make `/attest`."""
    return Directory(None, [("report", _text("/attest/report", MAX_NONCE, bearer.report))])


def _files(key: "Callable[[], Key]", *, signs: bool) -> list[tuple[str, Node]]:
    files = [
        ("share", _read(lambda: key().share())),
        ("verify", _exchange(lambda: _Verified(key().verifying()))),
    ]
    if signs:
        # Without any write it is the signature of nothing that is asked for: a message, too.
        files.append(("sign", _exchange(lambda: key().signing(), required=False)))
    return files


def _read(content: "Callable[[], bytes]") -> Node:
    def opened() -> "Descriptor":
        return File(None, content()).open(read=True, write=False)

    return Opened(d.REGULAR, opened)


def _text(what: str, most: int, ask: "Callable[[bytes], bytes]") -> Node:
    return _exchange(lambda: _Text(what, most, ask))


def _exchange(begin: "Callable[[], Feed]", *, required: bool = True) -> Node:
    return Opened(d.CHARACTER, lambda: Exchange(begin, required=required))
