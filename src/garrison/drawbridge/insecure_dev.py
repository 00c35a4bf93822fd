"""Development only: an OpenID Connect issuer and a TLS authority of a drawbridge's own.

`drawbridge serve --insecure-dev` needs no identity provider and no certificates, so that all
else can be tried on one machine. It is insecure because whoever has the one secret can log in
as anybody, and because nobody vouches for the TLS authority.

In the store's directory it makes, once, and readable by its owner alone:

    insecure-oidc-secret        the client secret, for every client
    tls/ca.pem                  give this to clients (`--ca-bundle`)
    tls/server.pem, server.key  for localhost and the address that is listened on

The issuer's routes are below `/insecure-oidc/`: discovery, `jwks`, and `oauth/token` with the
client-credentials grant, whose subject is the client's id, and with the device grant, for which
`oauth/device` gives out codes and `device` is the page where somebody with the secret says whose
token it is to be. Its key is made at each start: a token ends with the process.
"""

from __future__ import annotations

import hmac
import secrets
import time
from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from garrison.disk import write_whole
from garrison.drawbridge import insecure_device as device
from garrison.drawbridge.tokens import Verifier
from garrison.errors import GarrisonError, Misuse
from garrison.formats.key_usage import key_usage
from garrison.service.requests import read_limited

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

PREFIX = "/insecure-oidc"
DEVICES = "insecure-devices"
SECRET = "insecure-oidc-secret"  # noqa: S105  (a file's name)
CA_PEM = "tls/ca.pem"
SERVER_PEM = "tls/server.pem"
SERVER_KEY = "tls/server.key"

# Not addresses: this issuer is asked wherever the drawbridge happens to listen.
_ISSUER = "urn:garrison:insecure-dev-issuer"
_AUDIENCE = "urn:garrison:insecure-dev-drawbridge"
_KID = "insecure-dev"
_SCOPES = frozenset(
    f"{level}:drawbridge_{context}"
    for level in ("read", "write", "manage")
    for context in ("users", "repositories", "tags")
)
_TOKEN_SECONDS = 24 * 3600
_MAX_FORM = 16 * 1024
_MAX_SUBJECT = 255
_LIFETIME = timedelta(days=365)


class InsecureIssuer:
    """Gives a token for any subject to whoever has the secret."""

    def __init__(self, secret: str, devices: Path | None = None) -> None:
        """Make an issuer with a new key.

        Args:
            secret: whoever has it may log in.
            devices: where the device flow keeps what is pending; None for no device flow.
        """
        self._secret = secret.encode()
        self._devices = None if devices is None else device.DeviceGrants(devices)
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        self._jwk = {**public, "kid": _KID, "use": "sig", "alg": "ES256"}
        self._public = jwt.PyJWK.from_dict(self._jwk, "ES256")

    def verifier(self) -> Verifier:
        """The verifier of this issuer's tokens."""
        return Verifier(issuer=_ISSUER, audience=_AUDIENCE, keys=self)

    def known(self, kid: str) -> jwt.PyJWK | None:
        """See `garrison.drawbridge.tokens.Keys`."""
        return self._public if kid == _KID else None

    find = known

    def token(self, subject: str, scopes: frozenset[str] = _SCOPES) -> str:
        """A token for `subject`."""
        now = int(time.time())
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + _TOKEN_SECONDS,
            "scope": " ".join(sorted(scopes)),
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": _KID})

    def routes(self) -> list[Route]:
        """The issuer's HTTP."""
        routes = [
            Route(f"{PREFIX}/.well-known/openid-configuration", self._discovery),
            Route(f"{PREFIX}/jwks", self._jwks),
            Route(f"{PREFIX}/oauth/token", self._token, methods=["POST"]),
        ]
        if self._devices is not None:
            routes += [
                Route(f"{PREFIX}/oauth/device", self._device_code, methods=["POST"]),
                Route(f"{PREFIX}/device", self._device_page, methods=["GET", "POST"]),
            ]
        return routes

    async def _discovery(self, request: Request) -> Response:
        base = _base(request)
        document = {
            "issuer": base,
            "token_endpoint": f"{base}oauth/token",
            "jwks_uri": f"{base}jwks",
            "grant_types_supported": ["client_credentials"],
            "scopes_supported": sorted(_SCOPES),
        }
        if self._devices is not None:
            document["device_authorization_endpoint"] = f"{base}oauth/device"
            document["grant_types_supported"] = ["client_credentials", device.GRANT]
        return JSONResponse(document)

    async def _jwks(self, _request: Request) -> Response:
        return JSONResponse({"keys": [self._jwk]})

    async def _token(self, request: Request) -> Response:
        """RFC 6749, 4.4: the errors are those of its section 5.2."""
        given = await _form(request)
        if given is None:
            return _refused("invalid_request")
        if given.get("grant_type") == device.GRANT and self._devices is not None:
            try:
                granted = self._devices.take(
                    given.get("device_code", ""), given.get("client_id", ""), int(time.time())
                )
            except device.GrantError as error:
                return _refused(str(error))
            return self._granted(str(granted.subject), frozenset(granted.scopes))
        subject = given.get("client_id", "")
        if given.get("grant_type") != "client_credentials":
            return _refused("unsupported_grant_type")
        if not 0 < len(subject) <= _MAX_SUBJECT or not self._knows_secret(given):
            return _refused("invalid_client", status=401)
        return self._granted(subject, _scopes(given))

    def _knows_secret(self, given: dict[str, str]) -> bool:
        return hmac.compare_digest(given.get("client_secret", "").encode(), self._secret)

    def _granted(self, subject: str, scopes: frozenset[str]) -> Response:
        return JSONResponse(
            {
                "access_token": self.token(subject, scopes),
                "token_type": "Bearer",
                "expires_in": _TOKEN_SECONDS,
                "scope": " ".join(sorted(scopes)),
            },
            headers={"Cache-Control": "no-store"},
        )

    async def _device_code(self, request: Request) -> Response:
        """RFC 8628, 3.1 and 3.2."""
        given = await _form(request)
        client_id = "" if given is None else given.get("client_id", "")
        if given is None or self._devices is None or not 0 < len(client_id) <= _MAX_SUBJECT:
            return _refused("invalid_request")
        try:
            # In a thread: it waits for the disk.
            code, pending = await run_in_threadpool(
                self._devices.begin, client_id, _scopes(given), int(time.time())
            )
        except GarrisonError:
            return _refused("temporarily_unavailable", status=503)
        address = f"{_base(request)}device"
        return JSONResponse(
            {
                "device_code": code,
                "user_code": pending.user_code,
                "verification_uri": address,
                "verification_uri_complete": f"{address}?user_code={pending.user_code}",
                "expires_in": device.LIFETIME_SECONDS,
                "interval": device.INTERVAL_SECONDS,
            },
            headers={"Cache-Control": "no-store"},
        )

    async def _device_page(self, request: Request) -> Response:
        """RFC 8628, 3.3: the user types the code, and says who it is."""
        address = f"{PREFIX}/device"
        if request.method != "POST":
            code = request.query_params.get("user_code", "")[:_MAX_SUBJECT]
            return _html(device.page(address, code, "Is this the code that your device shows?"))
        given = await _form(request)
        if given is None or self._devices is None:
            return _html(device.page(address, "", "That was not this form."), 400)
        code, subject = given.get("user_code", ""), given.get("subject", "")
        allow = given.get("decision") == "allow"
        if not self._knows_secret(given):
            return _html(device.page(address, code, "This is not the secret."), 403)
        if allow and not 0 < len(subject) <= _MAX_SUBJECT:
            return _html(device.page(address, code, "Say as whom to log in."), 400)
        try:
            await run_in_threadpool(
                self._devices.decide, code, subject if allow else None, int(time.time())
            )
        except GarrisonError as error:
            return _html(device.page(address, code, str(error)), 400)
        done = "The device is logged in." if allow else "The device was refused."
        return _html(device.page(address, "", done))


def _base(request: Request) -> str:
    return f"https://{request.headers.get('host', 'localhost')}{PREFIX}/"


async def _form(request: Request) -> dict[str, str] | None:
    """The fields of a form that are there once; None if it is not a form."""
    try:
        form = parse_qs((await read_limited(request, _MAX_FORM)).decode())
    except (GarrisonError, ValueError):
        return None
    return {name: values[0] for name, values in form.items() if len(values) == 1}


def _scopes(given: dict[str, str]) -> frozenset[str]:
    return frozenset(given.get("scope", "").split()) & _SCOPES or _SCOPES


def _html(text: str, status: int = 200) -> Response:
    policy = "default-src 'none'; form-action 'self'; frame-ancestors 'none'"
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
    return HTMLResponse(text, status_code=status, headers=headers)


def _refused(error: str, status: int = 400) -> Response:
    return JSONResponse({"error": error}, status_code=status)


def prepare(directory: Path, *, host: str, now: datetime) -> str:
    """Make what is not there yet in `directory`, and return the secret.

    Args:
        directory: of the store.
        host: the address that will be listened on.
        now: from when the certificates are valid.

    Raises:
        Misuse: others may read the secret.
    """
    (directory / "tls").mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = directory / SECRET
    if not secret.exists():
        write_whole(secret, secrets.token_urlsafe(32).encode())
    if secret.stat().st_mode & 0o077:
        raise Misuse("others can read it", field=str(secret), expected="mode 0600")
    if not all((directory / name).exists() for name in (CA_PEM, SERVER_PEM, SERVER_KEY)):
        _make_tls(directory, host, now)
    return secret.read_text().strip()


def _make_tls(directory: Path, host: str, now: datetime) -> None:
    """A CA whose key is forgotten at once, and one certificate of it."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Insecure development CA")])
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), ca_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = dict.fromkeys(_general_name(name) for name in ("localhost", "127.0.0.1", "::1", host))
    server = (
        _builder(x509.Name([]), ca_name, key.public_key(), ca_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        # Critical, for the subject is empty (RFC 5280, 4.2.1.6).
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    write_whole(
        directory / SERVER_KEY,
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    write_whole(directory / SERVER_PEM, server.public_bytes(Encoding.PEM))
    # Last: whoever waits for it finds the rest.
    write_whole(directory / CA_PEM, ca.public_bytes(Encoding.PEM))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
