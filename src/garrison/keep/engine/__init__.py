"""The WebAssembly engine: a binding of our own to the library of the `wasmtime` package.

Its rule: a guest starts in milliseconds, so what stands on the path of every start imports
next to nothing. See ADR 1 and 2.
"""
