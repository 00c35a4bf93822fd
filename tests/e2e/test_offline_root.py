"""A stack whose steward has an encrypted intermediate under an offline root, and rolls over."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
import wasmtime

from garrison.testing.stack import Stack

if TYPE_CHECKING:
    from pathlib import Path

_QUIET = '(module (memory (export "memory") 1) (func (export "_start")))'


@pytest.mark.slow
def test_keeps_are_certified_under_an_offline_root(tmp_path: Path) -> None:
    """A keep reads a private workload with its chain, before and after a new intermediate."""
    secret, root = tmp_path / "secret", tmp_path / "root"
    secret.write_text("a passphrase\n")
    secret.chmod(0o600)
    package = tmp_path / "package"
    package.mkdir()
    (package / "main.wasm").write_bytes(wasmtime.wat2wasm(_QUIET))
    custody = ("--offline-root", str(root), "--secret-file", str(secret))
    with Stack(
        tmp_path / "stack", steward_init=custody, steward_serve=("--secret-file", str(secret))
    ) as stack:
        stack.start_services()
        root.rename(tmp_path / "safe")
        stack.login()
        stack.register_repo("quiet", "--private", "--keep", "tee=snp")
        stack.publish(package, "quiet:0.1.0")
        done = stack.run(*stack.deploy_arguments("quiet:0.1.0"))
        assert done.returncode == 0, done.stderr
        (tmp_path / "safe").rename(root)
        home, steward = str(stack.directory / "steward"), stack.processes[-1]
        before = stack.steward_root.read_bytes()
        stack.command("steward", "rollover", "prepare", home, *custody)
        stack.command("steward", "rollover", "activate", home)
        # The root is the same: nobody has to be told.
        assert stack.steward_root.read_bytes() == before
        os.kill(steward.pid, signal.SIGHUP)
        steward.expect('"outcome": "reloaded"')
        done = stack.run(*stack.deploy_arguments("quiet:0.1.0"))
        assert done.returncode == 0, done.stderr
