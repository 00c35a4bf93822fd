"""A component, published and deployed by its slug, beside a core module: the same life."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from garrison.testing.component import command

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.testing.stack import Stack

pytestmark = [pytest.mark.xdist_group("stack")]

# Prints its second argument's bytes out of the package, and ends with 7.
_BODY = """
  (data (i32.const 0) "pkg/greeting")
  (func (export "run") (result i32)
    (call $directories (i32.const 512))
    (call $open (i32.load (i32.load (i32.const 512))) (i32.const 0) (i32.const 0) (i32.const 12)
      (i32.const 0) (i32.const 1) (i32.const 1024))
    (call $read (i32.load (i32.const 1028)) (i64.const 100) (i64.const 0) (i32.const 1040))
    (call $write (call $out) (i32.load (i32.const 1044)) (i32.load (i32.const 1048))
      (i32.const 1024))
    (call $exit (i32.const 7))
    (i32.const 0))
"""
_FUNCTIONS = {
    "directories": ("wasi:filesystem/preopens", "get-directories"),
    "open": ("wasi:filesystem/types", "[method]descriptor.open-at"),
    "read": ("wasi:filesystem/types", "[method]descriptor.read"),
    "out": ("wasi:cli/stdout", "get-stdout"),
    "write": ("wasi:io/streams", "[method]output-stream.blocking-write-and-flush"),
    "exit": ("wasi:cli/exit", "exit-with-code"),
}


@pytest.fixture(scope="session")
def published(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The stack, with `greeter:0.1.0` published, readable by keeps on SNP."""
    package: Path = tmp_path_factory.mktemp("greeter")
    (package / "main.wasm").write_bytes(command(_BODY, _FUNCTIONS))
    (package / "greeting").write_text("good morning\n")
    (package / "Enarx.toml").write_text('[stdout]\nkind = "host"\n')
    stack.register_repo("greeter", "--private", "--keep", "tee=snp")
    stack.publish(package, "greeter:0.1.0")
    return stack


def test_a_component_is_deployed_by_its_slug_with_its_package(published: Stack) -> None:
    done = published.run(*published.deploy_arguments("greeter:0.1.0"))
    assert done.stdout == "good morning\n", done.stderr
    assert done.returncode == 7, done.stderr
