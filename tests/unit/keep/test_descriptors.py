"""Which descriptors a workload starts with: the order of `[[files]]` is the order of numbers."""

from __future__ import annotations

from garrison.formats.enarx_toml import Config
from garrison.keep.net.listener import Listener
from garrison.keep.net.network import Network
from garrison.keep.workload import descriptors
from garrison.testing.stack import free_port


def test_files_are_numbered_in_their_order() -> None:
    config = Config.from_bytes(
        f"""
        [[files]]
        kind = "listen"
        prot = "tcp"
        addr = "127.0.0.1"
        port = {free_port()}
        name = "web"
        [[files]]
        kind = "stderr"
        [[files]]
        kind = "null"
        [[files]]
        kind = "stdin"
        """.encode()
    )
    found = descriptors(config, Network(config, None, []))
    (first, listener), *rest = found
    assert first == "web"
    assert isinstance(listener, Listener)
    listener.close()
    assert [opened for _, opened in rest] == [2, None, 0]


def test_streams_of_the_second_schema() -> None:
    config = Config.from_bytes(b'[stdout]\nkind = "host"\n')
    found = descriptors(config, Network(config, None, []))
    assert found == [("stdin", None), ("stdout", 1), ("stderr", None)]
