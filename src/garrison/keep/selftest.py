"""What an image runs when it is not told otherwise: it shows that all a keep stands on is there.

It imports every module of Garrison in the image, looks for the root file system
being closed to writing, makes a key and a TLS context, names the TEE, and runs a guest in
WebAssembly. Each is a line on the console with the seconds since the kernel started.
"""

from __future__ import annotations

import codecs
import importlib
import time
from datetime import UTC, datetime
from pathlib import Path

import garrison
from garrison.errors import Misuse, Unverified

# What they import comes with them. Rust imports modules of the second.
_PACKAGES = ("garrison", "cryptography")
_GUEST = """
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\08\\00\\00\\00\\17\\00\\00\\00hello from WebAssembly\\n")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))))
"""
DONE = "garrison: image: all is well"


def main() -> None:
    """Do it, or raise what is wrong."""
    _say("Python")
    _run_guest()
    _say("a guest")
    _check_root(Path("/"))
    _make_keys()
    _say("keys")
    _import_all(Path(garrison.__file__).parent.parent)
    _use_hidden_imports()
    _say("modules")
    _say(f"TEE: {_tee()}")
    print(DONE, flush=True)


def _say(what: str) -> None:
    # The clock of the machine, which starts with it.
    print(f"garrison: image: {time.clock_gettime(time.CLOCK_BOOTTIME):.2f} s: {what}", flush=True)


def _run_guest() -> None:
    from garrison.keep.engine.library import wat2wasm
    from garrison.keep.execute import execute

    code = execute(
        wat2wasm(_GUEST),
        args=["selftest"],
        env={},
        descriptors=[("stdin", None), ("stdout", 1), ("stderr", 2)],
        files={},
        network=None,
    )
    if code:
        raise Unverified("the guest failed", field="image", found=f"exit code {code}")


def _check_root(root: Path) -> None:
    try:
        (root / "written").touch()
    except OSError:
        return
    raise Unverified("it can be written", field="image: root file system", expected="read-only")


def _make_keys() -> None:
    import ssl

    from cryptography.hazmat.primitives.asymmetric import ec
    from OpenSSL import SSL

    ec.generate_private_key(ec.SECP256R1())
    SSL.Context(SSL.TLS_METHOD)
    ssl.create_default_context()


def _import_all(library: Path) -> None:
    for package in _PACKAGES:
        for file in sorted((library / package).rglob("*.pyc")):
            parts = file.relative_to(library).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            importlib.import_module(name)


def _use_hidden_imports() -> None:
    """What imports modules without a statement that says so."""
    datetime.strptime("2026-01-31T12:00:00Z", "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    for name in ("ascii", "charmap", "idna", "latin-1", "utf-8"):
        codecs.lookup(name)


def _tee() -> str:
    from garrison.attesters.detect import present

    try:
        return present()
    except Misuse:
        return "none"
