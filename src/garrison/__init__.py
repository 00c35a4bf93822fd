"""Garrison: a secure network of trusted WebAssembly applications on untrusted hosts."""

__version__ = "0.1.0"
