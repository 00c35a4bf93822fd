"""Manifests for other schedulers, held to what the engines publish."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.cli.main import cli
from garrison.launch.manifests import Deployment, kubernetes, label, nomad, systemd

if TYPE_CHECKING:
    from pathlib import Path

DEPLOYMENT = Deployment(
    name="chat-server-0-1-0",
    slug="drawbridge.test:8443/jane/chat-server:0.1.0",
    digest="A" * 43,
    backend="cvm",
    steward="https://steward.test",
    ports=(8443, 9000),
    files={"--steward-root": "-----BEGIN\nroot {{ not a template }} 100%\n", "--policy": "# p\n"},
)
PLAIN = replace(DEPLOYMENT, backend="nil", ports=())
KVM = replace(
    DEPLOYMENT, backend="kvm", image="/srv/keep image", published=("9443:8443",), memory_mib=1024
)
SNP, TDX = (replace(KVM, backend=backend, memory_mib=None) for backend in ("snp", "tdx"))
EVERY = pytest.mark.parametrize(
    "deployment", [DEPLOYMENT, PLAIN, KVM, SNP, TDX], ids=["cvm", "nil", "kvm", "snp", "tdx"]
)
MACHINES = ("kvm", "snp", "tdx")
IMAGE = "registry.test/garrison:0.1.0"


def same_command(words: list[str]) -> None:
    """The command must be one that this very version understands."""
    assert words[:2] == ["garrison", "deploy"]
    command = cli.get_command(
        cli.make_context("garrison", ["deploy"], resilient_parsing=True), "deploy"
    )
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert words[-1] == DEPLOYMENT.slug
    if words[words.index("--backend") + 1] in MACHINES:
        assert words[words.index("--image") + 1] == KVM.image
        assert words[words.index("--publish") + 1] == "9443:8443"


@EVERY
def test_kubernetes_takes_it(deployment: Deployment) -> None:
    document = json.loads(kubernetes(deployment, IMAGE))
    items: list[dict[str, Any]] = document["items"]
    kinds = [item["kind"] for item in items]
    assert kinds == ["ConfigMap", "Deployment", *(["Service"] if deployment.ports else [])]
    for item in items:
        kubernetes_validate.validate(item, "1.37", strict=True)
    pod = items[1]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    same_command(container["command"])
    assert container["securityContext"]["runAsNonRoot"] == (deployment.backend in {"nil", "kvm"})
    paths = {volume.get("hostPath", {}).get("path") for volume in pod["volumes"]}
    assert ("/sys/kernel/config" in paths) == (deployment.backend == "cvm")
    assert ("/var/run/tdx-qgs/qgs.socket" in paths) == (deployment.backend == "tdx")
    # What a plain pod lacks comes from a device plugin; where there is none it is not placed.
    resources = container["resources"]
    devices = {name: n for name, n in resources["limits"].items() if name != "memory"}
    assert devices == {f"devices.kubevirt.io/{name}": "1" for name in deployment.devices}
    assert devices.items() <= resources["requests"].items()
    memory = {"kvm": "1280Mi", "snp": "768Mi", "tdx": "768Mi"}
    assert resources["limits"]["memory"] == memory.get(deployment.backend, "512Mi")
    # Every file that the command reads is there.
    for option in deployment.files:
        name = option.removeprefix("--")
        assert items[0]["data"][name] == deployment.files[option]
        assert f"/etc/garrison/{name}" in container["command"]


def test_a_manifest_that_is_wrong_is_noticed() -> None:
    """The schemas are looked at at all."""
    item = json.loads(kubernetes(DEPLOYMENT, IMAGE))["items"][1]
    item["spec"]["template"]["spec"]["containers"][0]["imagge"] = IMAGE
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, "1.37", strict=True)


@EVERY
def test_systemd_takes_it(deployment: Deployment, tmp_path: Path) -> None:
    text = systemd(deployment)
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(line.removeprefix("ExecStart=").replace("%%", "%"))
    assert words[0] == "/usr/bin/env"
    same_command(words[1:])
    allowed = {line for line in text.splitlines() if line.startswith("DeviceAllow=")}
    assert allowed == {f"DeviceAllow=/dev/{name} rw" for name in deployment.devices}
    assert ("DevicePolicy=closed" in text) == (deployment.backend in MACHINES)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    unit = tmp_path / "keep.service"
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    about_ours = [line for line in done.stderr.splitlines() if "keep.service" in line]
    assert about_ours == []
    unit.write_text(text.replace("Restart=on-failure", "Restart=sometimes"))
    again = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert "sometimes" in again.stderr


@EVERY
def test_nomad_is_told_all(deployment: Deployment) -> None:
    in_machine = deployment.backend in MACHINES
    job = json.loads(nomad(deployment, None if in_machine else IMAGE))["Job"]
    (group,) = job["TaskGroups"]
    (task,) = group["Tasks"]
    words = [task["Config"]["command"], *task["Config"]["args"]]
    assert task["Driver"] == ("raw_exec" if in_machine else "docker")
    same_command(words[1:] if in_machine else words)
    reserved = [port["Value"] for port in group["Networks"][0]["ReservedPorts"]]
    assert reserved == list(deployment.ports)
    for template in task["Templates"]:
        assert template["LeftDelim"] not in template["EmbeddedTmpl"]
        folder, _, name = template["DestPath"].rpartition("/")
        assert folder == "local"
        # As Nomad calls that folder for the two drivers.
        path = f"${{NOMAD_TASK_DIR}}/{name}" if in_machine else f"/local/{name}"
        assert path in task["Config"]["args"]


_NOMAD = """
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/hashicorp/nomad/api"
)

func main() {
	var request api.JobRegisterRequest
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	request.Job.Canonicalize()
	fmt.Println(*request.Job.TaskGroups[0].Tasks[0].Resources.MemoryMB)
}
"""


@pytest.mark.slow
def test_nomad_s_own_types_take_it(tmp_path: Path) -> None:
    """Nomad publishes no schema; its Go client has the types, and knows no other fields."""
    if shutil.which("go") is None:
        pytest.skip("there is no Go compiler here")
    (tmp_path / "main.go").write_text(_NOMAD)
    for arguments in (["mod", "init", "check"], ["mod", "tidy"], ["build", "-o", "check", "."]):
        done = subprocess.run(
            ["go", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode and arguments == ["mod", "tidy"]:
            pytest.skip(f"Nomad's client cannot be had: {done.stderr[-200:]}")
        assert done.returncode == 0, done.stderr
    for text, code in (
        (nomad(DEPLOYMENT, IMAGE), 0),
        (nomad(KVM, None), 0),
        (nomad(DEPLOYMENT, IMAGE).replace('"Driver"', '"Drivver"'), 1),
    ):
        ran = subprocess.run(
            [tmp_path / "check"],
            input=text,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ran.returncode == code, ran.stdout


@given(st.text(max_size=100))
def test_a_label_is_one(text: str) -> None:
    found = label(text)
    assert 0 < len(found) <= 63
    assert found.isascii()
    assert all(c.isalnum() or c == "-" for c in found)
    assert found == found.lower()
    assert not found.startswith("-")
    assert not found.endswith("-")
