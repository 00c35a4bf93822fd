"""WASI 0.2 components: a parser, a canonical ABI and a host of our own.

A component is taken apart, its core modules run on the same engine and by the same unchecked
callbacks as those for preview 1, and what the engine's own component support would check is
checked here. See ADR 20. Only a run of a component imports this package.
"""
