"""Options of `run` and `deploy` for machines: what is refused, and where it says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from garrison.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

SLUG = "drawbridge.test/jane/chat:0.1.0"


@pytest.fixture
def module(tmp_path: Path) -> str:
    (tmp_path / "main.wasm").write_bytes(b"\0asm\1\0\0\0")
    (tmp_path / "roots.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    return str(tmp_path / "main.wasm")


def _fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) != 0
    return capsys.readouterr().err


@pytest.mark.parametrize("backend", ["snp", "tdx"])
def test_a_confidential_machine_is_refused_with_all_that_is_missing(
    backend: str, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = _image(tmp_path)
    said = _fails(capsys, "run", "--backend", backend, "--image", image, module)
    assert f"this machine cannot run keeps in {backend}" in said
    assert "hint: " in said


def _image(tmp_path: Path) -> str:
    folder = tmp_path / "image"
    folder.mkdir()
    parts = ", ".join(f'"{name}": "x"' for name in ("vmlinuz", "initrd", "cmdline"))
    about = f'{{"format": 1, "digest": "d", "inputs": "i", "parts": {{{parts}}}}}'
    (folder / "image.json").write_text(about)
    for name in ("vmlinuz", "initrd", "cmdline"):
        (folder / name).write_text("x")
    return str(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--publish", "8080"], "--publish: names no ports; found '8080'"),
        (["--publish", "0:80"], "--publish: names no ports"),
        (["--publish", "80:65536"], "--publish: names no ports"),
        (["--publish", "1.2.3.400:80:80"], "--publish: no IPv4 address; found '1.2.3.400'"),
        (["--publish", "80:80,hostfwd=x"], "--publish: names no ports"),
        (["--publish", "53:53/tcp"], "--publish: names no ports; found '53:53/tcp'"),
        (["--publish", "53:0/udp"], "--publish: names no ports"),
        (["--image-signatures", "MODULE"], "signatures: are for snp"),
        (["--dir", "/tmp"], "--dir: a machine has nothing of the host's"),
        (["--insecure-simulate", "snp=x"], "--insecure-simulate: has no use without --steward"),
    ],
)
def test_what_cannot_be_is_told_by_its_option(
    options: list[str],
    said: str,
    module: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [module if each == "MODULE" else each for each in options]
    machine = ["run", "--backend", "kvm", "--image", _image(tmp_path)]
    assert said in _fails(capsys, *machine, *options, module)


@pytest.mark.parametrize(("option", "value"), [("--publish", "80:80"), ("--memory-mib", "512")])
def test_options_for_machines_are_for_machines(
    option: str, value: str, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _fails(capsys, "run", option, value, module)
    assert f"{option}: is for a machine; found --backend nil" in said


def test_no_simulator_answers_for_a_confidential_machine(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _fails(
        capsys, "deploy", "--backend", "snp", "--steward", "https://steward.test",
        "--steward-root", str(tmp_path / "roots.pem"), "--insecure-simulate", f"snp={module}", SLUG,
    )  # fmt: skip
    assert "a TEE is not simulated where there is one" in said


def test_a_manifest_for_a_machine_says_where_its_image_is(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert module
    said = _fails(
        capsys, "deploy", "--backend", "kvm", "--steward", "https://steward.test",
        "--steward-root", str(tmp_path / "roots.pem"), "--output", "systemd", SLUG,
    )  # fmt: skip
    assert "--image: missing, or not the whole path" in said
