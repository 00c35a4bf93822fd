"""Run the preview 1 programs of WebAssembly/wasi-testsuite against `garrison run`.

    python tests/conformance/wasi_testsuite.py CHECKOUT

CHECKOUT is a checkout of its branch `prod/testsuite-base`, which holds the built programs. Its
own runner wants a later Python than Garrison does; this one knows the three parts of it that
preview 1 uses: a `.json` beside a program may name its arguments, environment and directory,
and the output and exit code that it must have.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROGRAMS = 72
_SECONDS = 60
_KNOWN = {"args", "dirs", "env", "exit_code", "root", "stderr", "stdout"}
_STREAMS = "".join(f'[{name}]\nkind = "host"\n' for name in ("stdin", "stdout", "stderr"))


def programs(checkout: Path) -> list[Path]:
    """The preview 1 programs of a checkout."""
    return sorted(checkout.glob("tests/*/testsuite/wasm32-wasip1/*.wasm"))


def failure(program: Path) -> str | None:
    """Run one program; what it did wrong, None if nothing."""
    described = program.with_suffix(".json")
    wanted: dict[str, Any] = json.loads(described.read_text()) if described.exists() else {}
    if unknown := set(wanted) - _KNOWN:
        return f"this runner does not know {sorted(unknown)}"
    with tempfile.TemporaryDirectory() as kept:
        config = Path(kept) / "Enarx.toml"
        variables = "".join(
            f"{json.dumps(name)} = {json.dumps(value)}\n"
            for name, value in wanted.get("env", {}).items()
        )
        config.write_text(f"[env]\n{variables}{_STREAMS}")
        command = [sys.executable, "-m", "garrison", "run", "--wasmcfgfile", str(config)]
        if "root" in wanted:
            # A copy: the programs change what they find.
            root = Path(kept) / "root"
            shutil.copytree(program.parent / wanted["root"], root, symlinks=True)
            command += ["--dir", f"{root}::/"]
        command += [str(program), "--", *wanted.get("args", [])]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GARRISON_")}
        try:
            found = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"still running after {_SECONDS} s"
    if found.returncode != wanted.get("exit_code", 0):
        return f"exit code {found.returncode}: {found.stderr.decode(errors='replace').strip()}"
    for name, output in (("stdout", found.stdout), ("stderr", found.stderr)):
        if name in wanted and output.decode(errors="replace") != wanted[name]:
            return f"{name} is {output!r}, expected {wanted[name]!r}"
    return None


def main() -> int:
    """Run all, and say which fail."""
    if len(sys.argv) != 2:
        print("usage: make conformance SUITE=CHECKOUT", file=sys.stderr)
        return 2
    found = programs(Path(sys.argv[1]))
    if len(found) < PROGRAMS:
        print(
            f"{sys.argv[1]}: {len(found)} programs for preview 1, expected {PROGRAMS}; check out"
            " the branch prod/testsuite-base of WebAssembly/wasi-testsuite",
            file=sys.stderr,
        )
        return 2
    failed = 0
    for program in found:
        why = failure(program)
        failed += why is not None
        print(f"{'pass' if why is None else 'FAIL'} {program.stem}{f': {why}' if why else ''}")
    print(f"{len(found) - failed} of {len(found)} pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
