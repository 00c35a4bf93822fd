"""The `Enarx.toml` of what tests, measurements and examples run."""

from __future__ import annotations


def server_config(
    port: int, *, stdin: str = "null", addr: str = "127.0.0.1", more: str = 'peers = ["any"]'
) -> str:
    """The `Enarx.toml` of a server.

    Args:
        port: where it listens.
        stdin: what its standard input is.
        addr: the address there; "::" is every one.
        more: what else is said of the listener.
    """
    return f"""
[[files]]
kind = "{stdin}"

[[files]]
kind = "stdout"

[[files]]
kind = "stderr"

[[files]]
kind = "listen"
name = "LISTEN"
addr = "{addr}"
port = {port}
{more}
"""
