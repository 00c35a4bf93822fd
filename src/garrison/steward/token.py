"""A key in a PKCS#11 token: it signs there, and never leaves.

Where the steward's key is in a token, `issuer.toml` stands in place of the key's file:

    module = "/usr/lib/softhsm/libsofthsm2.so"   # the vendor's library
    token = "garrison"                           # the label of the token
    key = "steward-5f2a"                         # the label of the key

The PIN comes as a passphrase would: see `garrison.steward.keys`. Garrison makes keys that cannot
be extracted. The library is loaded into the steward's process: it is trusted as much.

Needs the extra `pkcs11`; without it everything else works.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from garrison.errors import Malformed, Misuse, Unavailable
from garrison.formats.strict_toml import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_FILE = 4096
# SEC 2: the identifier of secp384r1, as the token wants it.
_SECP384R1 = bytes.fromhex("06052b81040022")
_LABEL_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_. ")
# PKCS #11, CK_TOKEN_INFO: a token's label has 32 bytes; keys' labels are kept as short.
_MAX_LABEL = 32


@dataclass(frozen=True, slots=True)
class TokenReference:
    """Where a key is: the content of `issuer.toml`."""

    module: str
    token: str
    key: str

    def __post_init__(self) -> None:
        for name in ("token", "key"):
            label = getattr(self, name)
            if not 0 < len(label) <= _MAX_LABEL or not _LABEL_CHARACTERS.issuperset(label):
                raise Malformed(
                    "not a label",
                    field=f"PKCS#11 {name}",
                    found=repr(label[:64]),
                    expected=f"at most {_MAX_LABEL} letters, digits, blanks or -_.",
                )
        if not self.module.startswith("/") or not self.module.isprintable() or '"' in self.module:
            raise Malformed(
                "not an absolute path", field="PKCS#11 module", found=repr(self.module[:200])
            )

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> TokenReference:
        """Read `issuer.toml`.

        Raises:
            Malformed: it is anything else than shown above.
        """
        table = Table.parse(data, source=source, limit=_MAX_FILE)
        found = cls(table.string("module"), table.string("token"), table.string("key"))
        table.done()
        return found

    def to_bytes(self) -> bytes:
        """Write `issuer.toml`."""
        escaped = self.module.replace("\\", "\\\\")
        return f'module = "{escaped}"\ntoken = "{self.token}"\nkey = "{self.key}"\n'.encode()


class TokenKey(ec.EllipticCurvePrivateKey):
    """The private key at a reference; signs, and does nothing else."""

    def __init__(self, handle: Any, public: ec.EllipticCurvePublicKey) -> None:
        self._handle = handle
        self._public = public
        # A session of PKCS #11 does one thing at a time.
        self._lock = threading.Lock()

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign `data` in the token.

        Raises:
            Unavailable: the token fails.
            TypeError: another algorithm than ECDSA over data; the caller is wrong.
        """
        from pkcs11 import Mechanism

        if not isinstance(signature_algorithm, ec.ECDSA) or isinstance(
            signature_algorithm.algorithm, Prehashed
        ):
            raise TypeError("a token's key signs data with ECDSA")
        digest = hashes.Hash(signature_algorithm.algorithm)
        digest.update(data)
        with self._lock, _failures():
            raw = bytes(self._handle.sign(digest.finalize(), mechanism=Mechanism.ECDSA))
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public key."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """The size of a scalar in bits."""
        return self._public.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """Not with this key."""
        self._never(algorithm, peer_public_key)

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """Not with this key."""
        self._never()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:  # noqa: A002 - the base's
        """Not with this key."""
        self._never(encoding, format, encryption_algorithm)

    def __copy__(self) -> TokenKey:
        return self

    def __deepcopy__(self, _memo: Any) -> TokenKey:
        return self

    def _never(self, *_: object) -> NoReturn:
        raise RuntimeError("the key stays in its token, and signs")


def open_key(
    reference: TokenReference, pin: bytes | None, public: ec.EllipticCurvePublicKey
) -> TokenKey:
    """Open the key at `reference`.

    Args:
        reference: where it is.
        pin: the PIN of the token.
        public: what its signatures are verified with.

    Raises:
        Misuse: module, token, PIN or key is not good, or the extra is not installed.
        Unavailable: the token fails.
        Malformed: it is another key than that of `public`.
    """
    from cryptography.exceptions import InvalidSignature

    session = _session(reference, pin, write=False)
    with _failures():
        handles = list(session.get_objects(_private(reference)))
    if len(handles) != 1:
        raise Misuse(
            "not one key of this label in the token",
            field=f"PKCS#11 key {reference.key!r}",
            found=f"{len(handles)} of them",
            expected="1",
        )
    key = TokenKey(handles[0], public)
    probe = ec.ECDSA(hashes.SHA384())
    try:
        public.verify(
            key.sign(b"garrison: is this the key?", probe), b"garrison: is this the key?", probe
        )
    except InvalidSignature as error:
        raise Malformed(
            "not the key of the issuing certificate", field=f"PKCS#11 key {reference.key!r}"
        ) from error
    return key


def generate_key(reference: TokenReference, pin: bytes | None) -> TokenKey:
    """Make a P-384 key at `reference`, which must be free.

    Raises:
        Misuse: module, token or PIN is not good, there is such a key, or the extra is missing.
        Unavailable: the token fails.
    """
    session = _session(reference, pin, write=True)
    from pkcs11 import Attribute, KeyType

    with _failures():
        if list(session.get_objects(_private(reference))):
            raise Misuse("exists already", field=f"PKCS#11 key {reference.key!r}")
        parameters = session.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: _SECP384R1}, local=True
        )
        public, private = parameters.generate_keypair(store=True, label=reference.key)
        # PKCS #11, 2.3.3: the point, in an OCTET STRING of less than 128 bytes.
        point = bytes(public[Attribute.EC_POINT])[2:]
    return TokenKey(private, ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point))


def _private(reference: TokenReference) -> dict[Any, Any]:
    from pkcs11 import Attribute, ObjectClass

    return {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: reference.key}


def _session(reference: TokenReference, pin: bytes | None, *, write: bool) -> Any:
    try:
        import pkcs11
    except ImportError as error:
        raise Misuse(
            "the library for PKCS#11 is not installed",
            field="PKCS#11",
            hint="pip install 'garrison[pkcs11]'",
        ) from error
    if pin is None:
        raise Misuse(
            "no PIN for the token",
            field=f"PKCS#11 token {reference.token!r}",
            hint="name a file with --secret-file",
        )
    field = f"PKCS#11 token {reference.token!r}"
    try:
        token = pkcs11.lib(reference.module).get_token(token_label=reference.token)
    except (pkcs11.NoSuchToken, pkcs11.MultipleTokensReturned) as error:
        raise Misuse("not one token of this label", field=field, found=reference.token) from error
    except (pkcs11.PKCS11Error, RuntimeError) as error:
        raise Misuse("the module cannot be loaded", field=reference.module) from error
    try:
        return token.open(rw=write, user_pin=pin.decode())
    except UnicodeDecodeError:
        raise Misuse("the PIN is not text", field=field) from None
    except pkcs11.UserAlreadyLoggedIn:
        # The login is the process's own, from the key that was opened or made before.
        return token.open(rw=write)
    except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange, pkcs11.PinLocked) as error:
        raise Misuse(
            "the token refuses the PIN", field=field, found=type(error).__name__
        ) from error
    except pkcs11.PKCS11Error as error:
        raise Unavailable(f"the token fails: {type(error).__name__}", field=field) from error


@contextmanager
def _failures() -> Iterator[None]:
    """Say what fails in a token as an outside reason."""
    from pkcs11 import PKCS11Error

    try:
        yield
    except PKCS11Error as error:
        raise Unavailable(f"the token fails: {type(error).__name__}", field="PKCS#11") from error
