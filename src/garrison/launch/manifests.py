"""A keep under somebody else's scheduler: manifests that run `garrison deploy` there.

Where there is a cluster already, keeps are its to place. What it runs is the command that a person
would run; it is trusted as little as any other host. What the command reads, the roots and the
policy, is no secret, and travels in the manifest.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Where a container finds what the command reads.
_FILES = "/etc/garrison"
_CONFIGFS = "/sys/kernel/config"
# Of a keep's process, with room for a workload.
_MEMORY_MIB = 512
_CPU_MILLIS = 500
_PORT_LABEL = "keep"


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is to run.

    Attributes:
        name: a DNS label (RFC 1123): what the engine calls it.
        slug: the workload.
        digest: its digest, which the manifest tells people; the keep's certificate proves it.
        backend: `nil` or `cvm`.
        steward: the steward's URL.
        ports: the TCP ports that the workload listens on.
        files: what the command reads, by its option: `--steward-root` and so on.
        memory_mib: how much memory it may have.
    """

    name: str
    slug: str
    digest: str
    backend: str
    steward: str
    ports: tuple[int, ...]
    files: Mapping[str, str]
    memory_mib: int = _MEMORY_MIB

    def command(self, folder: str) -> list[str]:
        """The command line, with its files in `folder`."""
        files = [word for option in self.files for word in (option, f"{folder}/{_name(option)}")]
        return [
            "garrison", "deploy", "--backend", self.backend, "--steward", self.steward,
            *files, self.slug,
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
    confined = (
        # The kernel lets root alone ask for evidence.
        ["User=root"]
        if deployment.backend == "cvm"
        else ["DynamicUser=yes", "ProtectHome=yes", "PrivateDevices=yes"]
    )
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
            f"MemoryMax={deployment.memory_mib}M",
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
    volumes: list[dict[str, Any]] = [{"name": "files", "configMap": {"name": name}}]
    mounts: list[dict[str, Any]] = [{"name": "files", "mountPath": _FILES, "readOnly": True}]
    if attested:
        volumes.append({"name": "configfs", "hostPath": {"path": _CONFIGFS, "type": "Directory"}})
        mounts.append({"name": "configfs", "mountPath": _CONFIGFS})
    container = {
        "name": "keep",
        "image": image,
        "command": deployment.command(_FILES),
        "ports": [{"containerPort": port, "protocol": "TCP"} for port in deployment.ports],
        "resources": {
            "requests": {"cpu": f"{_CPU_MILLIS}m", "memory": f"{deployment.memory_mib}Mi"},
            "limits": {"memory": f"{deployment.memory_mib}Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": not attested,
            "runAsUser": 0 if attested else 65532,
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


def nomad(deployment: Deployment, image: str) -> str:
    """A job in JSON, as Nomad's API takes it and `nomad job run -json` reads it.

    Args:
        deployment: what is to run.
        image: a container image that has the `garrison` command.
    """
    command, *arguments = deployment.command("/local")
    labels = [f"{_PORT_LABEL}-{port}" for port in deployment.ports]
    task = {
        "Name": "keep",
        "Driver": "docker",
        "Config": {"image": image, "command": command, "args": arguments, "ports": labels},
        "Resources": {"CPU": _CPU_MILLIS, "MemoryMB": deployment.memory_mib},
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
        task["Config"]["volumes"] = [f"{_CONFIGFS}:{_CONFIGFS}"]  # type: ignore[index]  # a dictionary
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
