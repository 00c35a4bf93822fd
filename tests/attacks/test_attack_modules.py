"""Hostile modules against their own keep: each ends, with the right code, and is told why.

Whole commands, in processes of their own, under limits of `garrison run --limit`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from garrison.keep.engine.library import wat2wasm

_SOURCE = Path(__file__).parents[1] / "guests/malice.c"
_MESSAGE = "the workload has reached a limit: limits."


@pytest.fixture(scope="module")
def malice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ziglang", reason="builds the guest")
    out = tmp_path_factory.mktemp("malice") / "malice.wasm"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "ziglang",
            "cc",
            "-target",
            "wasm32-wasi",
            "-O1",
            _SOURCE,
            "-o",
            out,
        ],
        check=True,
        capture_output=True,
        env={"ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache"), **os.environ},
    )
    return out


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GARRISON_", "ENARX_"))}
    return {**kept, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


def run(
    environment: dict[str, str], module: Path, *arguments: str, **limits: object
) -> subprocess.CompletedProcess[str]:
    options = [f"--limit={name}={value}" for name, value in limits.items()]
    return subprocess.run(
        [sys.executable, "-m", "garrison", "run", *options, str(module), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        # A pipe that nobody writes to.
        stdin=subprocess.DEVNULL if arguments[:1] != ("wait",) else subprocess.PIPE,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", ["spin", "yield", "sleep"])
def test_what_never_ends_is_ended(malice: Path, environment: dict[str, str], command: str) -> None:
    done = run(environment, malice, command, run_seconds=1)
    assert done.returncode == 124
    assert done.stderr == (
        "error: limits.run_seconds: the workload's time is over; found still running; expected an"
        " end within 1 seconds\n"
    )


def test_a_module_that_never_starts_is_ended(tmp_path: Path, environment: dict[str, str]) -> None:
    path = tmp_path / "start.wasm"
    path.write_bytes(
        wat2wasm('(module (start $s) (func $s (loop $l (br $l))) (func (export "_start")))')
    )
    done = run(environment, path, run_seconds=1)
    assert done.returncode == 124
    assert "the workload's time is over" in done.stderr


@pytest.mark.parametrize(
    ("command", "limits", "code", "said"),
    [
        ("recurse", {}, 134, "error: the guest trapped: wasm trap: call stack exhausted"),
        ("recurse", {"stack": "64KiB"}, 134, "wasm trap: call stack exhausted"),
        ("descriptors", {"descriptors": 100}, 4, f"{_MESSAGE}descriptors is 100"),
        ("nest", {"tmp": "2MiB"}, 6, f"{_MESSAGE}tmp is 2097152"),
        ("links", {}, 7, ""),
        ("polls", {}, 8, ""),
        ("renumber", {}, 134, "error: the guest trapped: wasm trap: wasm `unreachable`"),
        ("close", {}, 134, "error: the guest trapped: wasm trap: wasm `unreachable`"),
    ],
    ids=[
        "recursion", "small-stack", "descriptors", "nested-directories", "links", "polls",
        "renumbered-streams", "closed-preopens",
    ],
)  # fmt: skip
def test_what_takes_too_much_is_told(
    malice: Path,
    environment: dict[str, str],
    command: str,
    limits: dict[str, object],
    code: int,
    said: str,
) -> None:
    done = run(environment, malice, command, **limits)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count(_MESSAGE) == said.count(_MESSAGE)
    if command == "descriptors":
        # Three streams and the root are open before.
        assert done.stdout == "No file descriptors available after 96\n"
    if command == "nest":
        assert done.stdout == "No space left on device after 4096\n"


def test_a_memory_bomb_gets_no_more_than_its_limit(
    malice: Path, environment: dict[str, str]
) -> None:
    done = run(environment, malice, "bomb", memory="64MiB")
    assert done.returncode == 3
    words = done.stdout.split()
    assert words[:3] == ["Out", "of", "memory"]
    assert 16 <= int(words[-2]) < 64
    assert re.fullmatch(
        r"garrison.keep: the workload failed with \d+ bytes of memory; limits.memory is 67108864\n",
        done.stderr,
    )


def test_a_module_of_giant_tables_and_memories_is_not_started(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    for name, body in (
        ("tables", "(table 4294967295 funcref)"),
        ("memories", "(memory 65536) (memory 65536)"),
        ("many", "(table 1 funcref)" * 1000),
    ):
        path = tmp_path / f"{name}.wasm"
        path.write_bytes(wat2wasm(f'(module {body} (func (export "_start")))'))
        done = run(environment, path)
        assert done.returncode in {65, 69}, name
        assert done.stderr.startswith("error: "), name


def test_tables_that_grow_for_ever(tmp_path: Path, environment: dict[str, str]) -> None:
    path = tmp_path / "grow.wasm"
    # Traps when it is refused.
    path.write_bytes(
        wat2wasm("""(module (table $t 1 funcref) (func (export "_start")
          (loop $l (br_if $l (i32.ne (i32.const -1)
            (table.grow $t (ref.null func) (i32.const 65536))))
          unreachable)))""")
    )
    done = run(environment, path)
    assert done.returncode == 134
    assert "unreachable" in done.stderr


@pytest.mark.parametrize(
    ("path", "count"), [("/dev/null", 1_000_000), ("/tmp/a", 300_000), ("", 100_000)],
    ids=["null", "file", "stdout"],
)  # fmt: skip
def test_a_million_tiny_writes(
    malice: Path, environment: dict[str, str], path: str, count: int
) -> None:
    done = run(environment, malice, "writes", path, str(count))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) == (0 if path else count)


def test_tiny_writes_end_at_the_quota(malice: Path, environment: dict[str, str]) -> None:
    done = run(environment, malice, "writes", "/tmp/a", "1000000", tmp=100_512)
    assert done.returncode == 5
    assert "No space left on device after 100000\n" in done.stderr
    assert f"{_MESSAGE}tmp is 100512" in done.stderr
