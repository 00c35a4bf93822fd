"""Channels found by their names, on machines whose host plays."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from garrison.errors import Malformed, Unavailable
from garrison.virtio_ports import open_ports

if TYPE_CHECKING:
    from pathlib import Path


def _machine(root: Path, names: list[str]) -> str:
    (root / "dev").mkdir()
    for number, name in enumerate(names):
        port = root / "sys/class/virtio-ports" / f"vport0p{number}"
        port.mkdir(parents=True)
        (port / "name").write_text(f"{name}\n")
        (root / "dev" / port.name).write_text(name)
    return str(root)


def test_each_is_opened_by_its_name(tmp_path: Path) -> None:
    found = open_ports(["b", "a"], root=_machine(tmp_path, ["a", "other", "b"]))
    for name, descriptor in found.items():
        assert os.read(descriptor, 16) == name.encode()
        assert not os.get_blocking(descriptor)
        os.close(descriptor)


def test_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="channel b: the host gives none; found a"):
        open_ports(["a", "b"], root=_machine(tmp_path, ["a"]), seconds=0)


def test_one_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="channel a: is there twice"):
        open_ports(["a"], root=_machine(tmp_path, ["a", "b", "a"]), seconds=0)


def test_too_many_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="channels: too many"):
        open_ports(["a"], root=_machine(tmp_path, [str(each) for each in range(65)]), seconds=0)
