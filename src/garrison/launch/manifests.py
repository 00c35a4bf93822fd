"""A keep under somebody else's scheduler: manifests that run `garrison deploy` there.

Where there is a cluster already, keeps are its to place. What it runs is the command that a person
would run; it is trusted as little as any other host. What the command reads, the roots and the
policy, is no secret, and travels in the manifest.

A machine needs devices, and QEMU and the keep image where it runs. A unit is let at the devices; a
pod gets them from a device plugin, under the names that KubeVirt gave them and others use too;
Nomad runs the command as it is (`raw_exec`), for its containers have none.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from garrison.launch.backends import DEFAULT_MEMORY
from garrison.launch.qemu_command import QUOTE_SOCKET

if TYPE_CHECKING:
    from collections.abc import Mapping

# Where a container finds what the command reads.
_FILES = "/etc/garrison"
_CONFIGFS = "/sys/kernel/config"
# Of a keep's process, with room for a workload.
_MEMORY_MIB = 512
# Beside a machine's own memory: QEMU's, and the command's.
_MACHINE_MIB = 256
# By backend that is a machine: the devices that QEMU opens (garrison.launch.host_checks).
_DEVICES = {"kvm": ("kvm",), "snp": ("kvm", "sev"), "tdx": ("kvm",)}
_PLUGIN = "devices.kubevirt.io"
_CPU_MILLIS = 500
_PORT_LABEL = "keep"


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is to run.

    Attributes:
        name: a DNS label (RFC 1123): what the engine calls it.
        slug: the workload.
        digest: its digest, which the manifest tells people; the keep's certificate proves it.
        backend: `nil`, `cvm`, or a machine: `kvm`, `snp`, `tdx`.
        steward: the steward's URL.
        ports: the TCP ports where the workload is reached.
        files: what the command reads, by its option: `--steward-root` and so on.
        memory_mib: how much memory it may have; None for what is usual.
        image: of a machine: the folder of the keep image, where the command runs.
        published: of a machine: the values of `--publish`.
    """

    name: str
    slug: str
    digest: str
    backend: str
    steward: str
    ports: tuple[int, ...]
    files: Mapping[str, str]
    memory_mib: int | None = None
    image: str | None = None
    published: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of the devices, in /dev, that it cannot do without."""
        return _DEVICES.get(self.backend, ())

    @property
    def limit_mib(self) -> int:
        """The memory that the engine is to give: to all of it."""
        memory = self.memory_mib or (DEFAULT_MEMORY if self.devices else _MEMORY_MIB)
        return memory + (_MACHINE_MIB if self.devices else 0)

    def command(self, folder: str) -> list[str]:
        """The command line, with its files in `folder`."""
        files = [word for option in self.files for word in (option, f"{folder}/{_name(option)}")]
        machine = [word for publish in self.published for word in ("--publish", publish)]
        if self.image is not None:
            machine += ["--image", self.image]
        if self.devices and self.memory_mib is not None:
            machine += ["--memory-mib", str(self.memory_mib)]
        return [
            "garrison", "deploy", "--backend", self.backend, "--steward", self.steward,
            *files, *machine, self.slug,
        ]  # fmt: skip


def label(text: str) -> str:
    """A DNS label (RFC 1123) that resembles `text`."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    return kept[:63].strip("-") or "keep"


def systemd(deployment: Deployment) -> str:
    """A unit, and, as comments above it, the files that it reads."""
    folder = f"{_FILES}/{deployment.name}"
    lines = [f"# {deployment.slug}, digest {deployment.digest}", "#"]
    for option, text in deployment.files.items():
        lines.append(f"# {folder}/{_name(option)}:")
        lines += [f"#   {line}" for line in text.splitlines()]
    # systemd.syntax(7): a percent sign is doubled.
    command = shlex.join(["/usr/bin/env", *deployment.command(folder)]).replace("%", "%%")
    # The kernel lets root alone ask for evidence, and at what makes a machine confidential.
    confined = (
        ["DynamicUser=yes", "ProtectHome=yes"]
        if deployment.backend in {"nil", "kvm"}
        else ["User=root"]
    )
    if deployment.devices:
        confined += ["DevicePolicy=closed", "SupplementaryGroups=kvm"]
        confined += [f"DeviceAllow=/dev/{name} rw" for name in deployment.devices]
    elif deployment.backend == "nil":
        confined += ["PrivateDevices=yes"]
    return "\n".join(
        [
            *lines,
            "[Unit]",
            f"Description=Garrison keep {deployment.name}",
            "Wants=network-online.target",
            "After=network-online.target",
            "",
            "[Service]",
            f"ExecStart={command}",
            "Restart=on-failure",
            "RestartSec=5",
            # As for a shell: 128 and the signal.
            "SuccessExitStatus=143",
            f"MemoryMax={deployment.limit_mib}M",
            *confined,
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "PrivateTmp=yes",
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
    )


def kubernetes(deployment: Deployment, image: str) -> str:
    """A list of a ConfigMap, a Deployment, and a Service if there are ports; JSON, which is YAML.

    Args:
        deployment: what is to run.
        image: a container image that has the `garrison` command.
    """
    name = deployment.name
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "garrison"}
    meta: dict[str, Any] = {"name": name, "labels": labels}
    attested = deployment.backend == "cvm"
    privileged = attested or deployment.backend in {"snp", "tdx"}
    devices = {f"{_PLUGIN}/{name}": "1" for name in deployment.devices}
    memory = f"{deployment.limit_mib}Mi"
    volumes: list[dict[str, Any]] = [{"name": "files", "configMap": {"name": name}}]
    mounts: list[dict[str, Any]] = [{"name": "files", "mountPath": _FILES, "readOnly": True}]
    if attested:
        volumes.append({"name": "configfs", "hostPath": {"path": _CONFIGFS, "type": "Directory"}})
        mounts.append({"name": "configfs", "mountPath": _CONFIGFS})
    if deployment.backend == "tdx":
        volumes.append({"name": "quotes", "hostPath": {"path": QUOTE_SOCKET, "type": "Socket"}})
        mounts.append({"name": "quotes", "mountPath": QUOTE_SOCKET})
    container = {
        "name": "keep",
        "image": image,
        "command": deployment.command(_FILES),
        "ports": [{"containerPort": port, "protocol": "TCP"} for port in deployment.ports],
        "resources": {
            "requests": {"cpu": f"{_CPU_MILLIS}m", "memory": memory, **devices},
            "limits": {"memory": memory, **devices},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": not privileged,
            "runAsUser": 0 if privileged else 65532,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": mounts,
    }
    items: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta,
            "data": {_name(option): text for option, text in deployment.files.items()},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                **meta,
                "annotations": {
                    "garrison-slug": deployment.slug,
                    "garrison-digest": deployment.digest,
                },
            },
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        # A keep needs nothing of the cluster's.
                        "automountServiceAccountToken": False,
                        "enableServiceLinks": False,
                        "containers": [container],
                        "volumes": volumes,
                    },
                },
            },
        },
    ]
    if deployment.ports:
        items.append(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": meta,
                "spec": {
                    "selector": {"app.kubernetes.io/name": name},
                    "ports": [
                        {"name": f"port-{port}", "port": port, "targetPort": port}
                        for port in deployment.ports
                    ],
                },
            }
        )
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2)


def nomad(deployment: Deployment, image: str | None) -> str:
    """A job in JSON, as Nomad's API takes it and `nomad job run -json` reads it.

    Args:
        deployment: what is to run.
        image: a container image that has the `garrison` command; None for a machine, for which
            Nomad's client has it, and QEMU.
    """
    labels = [f"{_PORT_LABEL}-{port}" for port in deployment.ports]
    if image is None:
        # Of a command on the client, the whole path is asked for.
        words = ["/usr/bin/env", *deployment.command("${NOMAD_TASK_DIR}")]
        driver, config = "raw_exec", {"command": words[0], "args": words[1:]}
    else:
        words = deployment.command("/local")
        driver, config = (
            "docker",
            {"image": image, "command": words[0], "args": words[1:], "ports": labels},
        )
    task: dict[str, Any] = {
        "Name": "keep",
        "Driver": driver,
        "Config": config,
        "Resources": {"CPU": _CPU_MILLIS, "MemoryMB": deployment.limit_mib},
        "Templates": [
            # What looks like a template's own is none: it is left as it is.
            {
                "DestPath": f"local/{_name(option)}",
                "EmbeddedTmpl": text,
                "LeftDelim": "\u0001{",
                "RightDelim": "}\u0001",
            }
            for option, text in deployment.files.items()
        ],
    }
    if deployment.backend == "cvm":
        task["User"] = "root"
        task["Config"]["volumes"] = [f"{_CONFIGFS}:{_CONFIGFS}"]
    ports = [
        {"Label": name, "Value": port, "To": port}
        for name, port in zip(labels, deployment.ports, strict=True)
    ]
    job = {
        "ID": deployment.name,
        "Name": deployment.name,
        "Type": "service",
        "Meta": {"slug": deployment.slug, "digest": deployment.digest},
        "TaskGroups": [
            {
                "Name": deployment.name,
                "Count": 1,
                "Networks": [{"ReservedPorts": ports}],
                "Tasks": [task],
            }
        ],
    }
    return json.dumps({"Job": job}, indent=2)


def _name(option: str) -> str:
    """The file of an option."""
    return option.removeprefix("--")
