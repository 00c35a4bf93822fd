"""Build a chat program into a package: `main.wasm` and `Enarx.toml`.

`python examples/chat/build.py SOURCE OUT [NAME=VALUE ...]`; see `build` for what they mean.
The same sources give the same bytes, wherever they stand and whenever they are built.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from string import Template

_COMMAND = (
    sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-std=c11", "-O2", "-g0", "-s",
    "-Wall", "-Wextra", "-Werror",
)  # fmt: skip
# The first build compiles the C library too.
_TIMEOUT_SECONDS = 300


class BuildError(subprocess.SubprocessError):
    """The package could not be built; the text says why, for a person."""


def build(source: Path, out: Path, substitutions: dict[str, str]) -> None:
    """Build the program of the directory `source` into the package directory `out`.

    Args:
        source: holds `main.c` and `Enarx.toml.in`.
        out: is made if it does not exist.
        substitutions: a value for every `$NAME` in `Enarx.toml.in`.

    Raises:
        BuildError: a value is missing, or the compiler is or fails.
    """
    template = source / "Enarx.toml.in"
    try:
        config = Template(template.read_text()).substitute(substitutions)
    except KeyError as error:
        raise BuildError(f"{template}: no value for ${error.args[0]}") from None
    out.mkdir(parents=True, exist_ok=True)
    # Beside the environment's own packages: nothing is written to the user's home.
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache")}
    try:
        done = subprocess.run(
            [*_COMMAND, "-o", str(out.resolve() / "main.wasm"), "main.c"],
            cwd=source,
            env={**caches, **os.environ},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{source}: the compiler took over {_TIMEOUT_SECONDS} s") from None
    if done.returncode != 0:
        raise BuildError(f"{source}: the compiler failed:\n{done.stderr.strip()}")
    (out / "Enarx.toml").write_text(config)


def main() -> int:
    """Build what the command line asks for, and return the exit code."""
    if len(sys.argv) < 3 or not all("=" in argument for argument in sys.argv[3:]):
        print("usage: build.py SOURCE OUT [NAME=VALUE ...]", file=sys.stderr)
        return 2
    values = dict(argument.split("=", 1) for argument in sys.argv[3:])
    try:
        build(Path(sys.argv[1]), Path(sys.argv[2]), values)
    except (BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
