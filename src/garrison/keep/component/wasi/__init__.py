"""The interfaces of WASI 0.2, a module for each package of it.

Each module begins with its package in WIT (`WIT`), of which `interfaces` reads the types, and has
a function for each function there: `[method]r.f` is `r_f`, `f` of the interface `i` is `i_f`. Each
is called with the component's host and the values, as `types` describes them, and fails by
`Failed`. Source: the WASI repositories, release 0.2.12.
"""
