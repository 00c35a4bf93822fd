"""A keep under Gramine from the host: gramine-sgx is played, for it is not to be had here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from garrison.cli.main import main
from garrison.errors import Malformed, Misuse, Unavailable, Unverified
from garrison.formats.launch_request import LaunchRequest
from garrison.formats.sgx_sigstruct import SigstructBody
from garrison.image.gramine import MANIFEST, REQUEST, ROOT, SIGSTRUCT
from garrison.launch import sgx
from garrison.measure import sgx_keys

REQUEST_OF = LaunchRequest("d.test/u/r:1.0.0", None, "roots", None, {"kind": "detect"})
SIGNED = sgx_keys.sign(
    SigstructBody.from_bytes(bytes(60) + hashlib.sha256(b"enclave").digest() + bytes(36)),
    sgx_keys.load(sgx_keys.create(), "key"),
)
# Says where it is, what it is called with and what is there, and ends as it is told.
_GRAMINE = f"""#!{sys.executable}
import json, os, pathlib, sys, time
here = pathlib.Path(".")
print(json.dumps({{
    "arguments": sys.argv[1:],
    "there": sorted(each.name for each in here.iterdir()),
    "request": json.loads((here / "{REQUEST}").read_text()),
    "code": (here / "{ROOT}" / "usr").read_text(),
    "folder": os.getcwd(),
    "pid": os.getpid(),
}}), flush=True)
time.sleep(float(os.environ.get("GRAMINE_SLEEPS", "0")))
sys.exit(7)
"""


@pytest.fixture
def enclave(tmp_path: Path) -> Path:
    folder = tmp_path / "enclave"
    (folder / ROOT).mkdir(parents=True)
    (folder / ROOT / "usr").write_text("the keep")
    (folder / MANIFEST).write_text("the manifest")
    (folder / SIGSTRUCT).write_bytes(SIGNED.to_bytes())
    return folder


@pytest.fixture
def gramine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    (place / "gramine-sgx").write_text(_GRAMINE)
    (place / "gramine-sgx").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")


@pytest.mark.usefixtures("gramine")
def test_a_keep_has_a_folder_of_its_own(enclave: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sgx.run_enclave(REQUEST_OF, enclave) == 7
    told = json.loads(capfd.readouterr().out)
    assert told["arguments"] == ["garrison"]
    assert told["there"] == sorted([ROOT, MANIFEST, SIGSTRUCT, REQUEST])
    assert told["request"] == json.loads(REQUEST_OF.to_json())
    assert told["code"] == "the keep"
    assert not Path(told["folder"]).exists()
    assert sorted(each.name for each in enclave.iterdir()) == sorted([ROOT, MANIFEST, SIGSTRUCT])


def _started(enclave: Path) -> subprocess.Popen[str]:
    """The keep, in a command of its own, which says a line and sleeps."""
    code = (
        "import sys; from pathlib import Path; from garrison.launch import sgx;"
        "from garrison.formats.launch_request import LaunchRequest;"
        "sys.exit(sgx.run_enclave(LaunchRequest.from_json(sys.argv[1].encode()),"
        " Path(sys.argv[2])))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, REQUEST_OF.to_json().decode(), str(enclave)],
        env={**os.environ, "GRAMINE_SLEEPS": "60"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("gramine")
def test_a_signal_ends_it(enclave: Path) -> None:
    with _started(enclave) as process:
        assert process.stdout is not None
        folder = Path(json.loads(process.stdout.readline())["folder"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    end = time.monotonic() + 30
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not folder.exists()


@pytest.mark.usefixtures("gramine")
def test_it_ends_with_the_command_however_that_ends(enclave: Path) -> None:
    with _started(enclave) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        process.kill()
    end = time.monotonic() + 30
    while time.monotonic() < end and Path(f"/proc/{told['pid']}/cwd").exists():
        time.sleep(0.05)
    assert not Path(f"/proc/{told['pid']}/cwd").exists()
    shutil.rmtree(told["folder"])


@pytest.mark.parametrize("name", [ROOT, MANIFEST, SIGSTRUCT])
def test_a_folder_that_is_not_whole(enclave: Path, name: str) -> None:
    (enclave / name).rename(enclave / "elsewhere")
    with pytest.raises(Misuse, match=f"{name}: is missing") as caught:
        sgx.check_enclave(enclave)
    assert "export" in str(caught.value.hint)


def test_a_signature_that_no_processor_takes(enclave: Path) -> None:
    sgx.check_enclave(enclave)
    (enclave / SIGSTRUCT).write_bytes(b"x" * 100)
    with pytest.raises(Malformed, match="no SIGSTRUCT"):
        sgx.check_enclave(enclave)
    changed = replace(SIGNED, body=replace(SIGNED.body, mrenclave=bytes(32)))
    (enclave / SIGSTRUCT).write_bytes(changed.to_bytes())
    with pytest.raises(Unverified, match="SIGNATURE"):
        sgx.check_enclave(enclave)


def test_a_host_without_sgx_says_what_is_missing(enclave: Path) -> None:
    with pytest.raises(Unavailable, match="this machine cannot run keeps in sgx") as caught:
        sgx.run_sgx(REQUEST_OF, enclave)
    assert "Gramine" in str(caught.value.hint)
    with pytest.raises(Misuse, match="--image: missing"):
        sgx.run_sgx(REQUEST_OF, None)


@pytest.mark.parametrize("backend", ["sgx", "nitro"])
def test_the_command_says_what_is_missing(
    enclave: Path, tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    image = enclave
    if backend == "nitro":
        image = tmp_path / "image"
        image.mkdir()
        for name in ("vmlinuz", "initrd", "cmdline"):
            (image / name).write_bytes(b"x")
        digest = dict.fromkeys(("vmlinuz", "initrd", "cmdline"), "sha256:0")
        about = {"format": 1, "digest": "sha256:0", "inputs": "sha256:0", "parts": digest}
        (image / "image.json").write_text(json.dumps(about))
    command = [
        "deploy", "--backend", backend, "--image", str(image),
        "--steward", "https://s.test", "--steward-root", str(tmp_path / "root.pem"),
    ]  # fmt: skip
    assert main([*command, "d.test/u/r:1.0.0"]) == 69
    said = capsys.readouterr().err
    assert f"this machine cannot run keeps in {backend}" in said
    assert ("nitro-cli" if backend == "nitro" else "gramine-sgx") in said
    simulate = ["--insecure-simulate", f"{backend}={tmp_path}"]
    assert main([*command, *simulate, "d.test/u/r:1.0.0"]) == 2
    assert "a TEE is not simulated where there is one" in capsys.readouterr().err


def test_local_workloads_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "main.wasm").write_bytes(b"")
    assert main(["run", "--backend", "sgx", str(tmp_path / "main.wasm")]) == 2
    assert "publish the workload" in capsys.readouterr().err
