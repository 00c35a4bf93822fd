"""The few calls into OpenSSL that pyOpenSSL has no copy-free or no public form of.

pyOpenSSL's `recv_into` copies twice, and neither it nor `send` work on another's memory without
a copy. The functions here are those of the same library, called directly. OpenSSL's rule is that a
thread's error queue is empty before a call whose failure is to be understood.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from OpenSSL import SSL

# pyOpenSSL's own handles on the library; there are no public ones.
lib: Any = SSL._lib  # type: ignore[attr-defined]  # noqa: SLF001
ffi: Any = SSL._ffi  # type: ignore[attr-defined]  # noqa: SLF001

# OpenSSL, include/openssl/sslerr.h: the reason codes that are told apart and not exported.
PEER_DID_NOT_RETURN_A_CERTIFICATE = 199
NO_APPLICATION_PROTOCOL = 235
# It comes after the reason that the record layer itself gives.
_RECORD_LAYER_FAILURE = 313

# SSL_CTX_set_alpn_select_cb(3)
_CHOOSE = (
    "int (*)(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)"
)


def handle(connection: SSL.Connection) -> Any:
    """The library's own object for `connection`."""
    return connection._ssl  # noqa: SLF001  (as above)


def context_handle(context: SSL.Context) -> Any:
    """The library's own object for `context`."""
    return context._context  # noqa: SLF001  (as above)


def offer_protocols(context: SSL.Context, names: tuple[str, ...], *, incoming: bool) -> None:
    """Offer `names` to servers, or choose the first of them that a client offers (RFC 7301).

    A client that offers others only is refused with the alert that is made for it. pyOpenSSL's
    own callback cannot do that without keeping an exception for each such client.
    """
    if not names:
        return
    ours = [name.encode() for name in names]
    if not incoming:
        context.set_alpn_protos(ours)
        return

    def choose(_ssl: Any, out: Any, size: Any, offered: Any, length: int, _: Any) -> int:
        # OpenSSL has checked that the names fill the list. The answer points into it.
        place, found = 0, {}
        while place < length:
            count = offered[place]
            found[bytes(ffi.buffer(offered + place + 1, count))] = place + 1
            place += 1 + count
        for name in ours:
            if name in found:
                out[0] = ffi.cast("unsigned char *", offered) + found[name]
                size[0] = len(name)
                return int(lib.SSL_TLSEXT_ERR_OK)
        return int(lib.SSL_TLSEXT_ERR_ALERT_FATAL)

    callback = ffi.callback(_CHOOSE, choose, error=lib.SSL_TLSEXT_ERR_ALERT_FATAL)
    lib.SSL_CTX_set_alpn_select_cb(context_handle(context), callback, ffi.NULL)
    # The library keeps no reference.
    context.set_app_data(callback)


def verify_error(code: int) -> str:
    """What OpenSSL calls the failure of a certificate."""
    return text(lib.X509_verify_cert_error_string(code))


def text(value: Any) -> str:
    """A C string, which may be NULL."""
    return "" if value == ffi.NULL else bytes(ffi.string(value)).decode("ascii", "replace")


def reason() -> int:
    """The reason code of the first error in the queue, 0 if there is none."""
    return int(lib.ERR_GET_REASON(lib.ERR_peek_error()))


def failure(code: int) -> OSError:
    """The error of a connection that has failed with `SSL_get_error` = `code`.

    It empties the error queue. What the peer's alert said is in the message.
    """
    number = int(ffi.errno)
    error = lib.ERR_peek_error()
    lib.ERR_clear_error()
    if code == lib.SSL_ERROR_SYSCALL:
        number = number or errno.ECONNRESET
        return OSError(number, os.strerror(number))
    return _told(error)


def likely_failure() -> OSError:
    """The error of the last call, if it failed, where those of others are queued before its own.

    It empties the error queue. The kernel's error comes first, for that may be all there is.
    """
    number = int(ffi.errno)
    last = 0
    while error := lib.ERR_get_error():
        if lib.ERR_GET_REASON(error) != _RECORD_LAYER_FAILURE:
            last = error
    if number not in (0, errno.EAGAIN, errno.EINTR):
        return OSError(number, os.strerror(number))
    return _told(last)


def _told(error: int) -> OSError:
    if lib.ERR_GET_REASON(error) == lib.SSL_R_UNEXPECTED_EOF_WHILE_READING:
        return OSError(
            errno.ECONNRESET, "the connection was cut off: it ended without the end of TLS"
        )
    why = text(lib.ERR_reason_error_string(error)) or "unknown reason"
    return OSError(errno.ECONNABORTED, f"TLS failed: {why}")
