"""WASI preview 1, in full: what a guest can ask of the keep."""
