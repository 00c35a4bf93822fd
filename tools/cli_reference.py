"""Write `docs/reference/cli.md` from the commands' own help.

`python tools/cli_reference.py` writes it; with `--check` it only says whether it is current.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from garrison.cli.main import cli

TARGET = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"
_HEAD = """# Command line

Made from the commands' own help by `make docs`; do not edit.
Exit codes are in [exit-codes.md](exit-codes.md).
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_sections(cli, "garrison", None)])


def _sections(command: click.Command, path: str, parent: click.Context | None) -> list[str]:
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent)
    context.max_content_width = 88
    context.terminal_width = 88
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    sections = [f"## {path}\n\n```text\n{text}\n```\n"]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                sections += _sections(child, f"{path} {name}", context)
    return sections


def main() -> int:
    """Write the page, or check it."""
    text = reference()
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text() != text:
            print(f"{TARGET.name} is not what the commands say: run `make docs`", file=sys.stderr)
            return 1
        return 0
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
