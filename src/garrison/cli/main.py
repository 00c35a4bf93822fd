"""`garrison`: the one entry of the command line.

A command is a module of this package with a click command called `command`; it is imported
only when it is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys

import click

from garrison import __version__
from garrison.terminal import log_to_stderr, report

# Name: module, and what the overview says of it.
_COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "Run a local workload in a keep."),
    "deploy": ("deploy", "Run a published workload in an attested keep."),
    "host": ("host", "Run keeps for tenants; look after one's own."),
    "config": ("config", "Make and check an Enarx.toml."),
    "package": ("package", "Publish, inspect and fetch workloads."),
    "repo": ("repo", "Register and inspect repositories."),
    "tree": ("tree", "Inspect, fetch and digest the files of a workload."),
    "user": ("user", "Register, log in, and inspect users."),
    "verify": ("verify", "Verify evidence offline, and say what it shows."),
    "platform": ("platform", "What this machine can run, and TEE simulators."),
    "key": ("key", "Keys that sign images: made, digested, used."),
    "sign": ("sign", "Sign an image for SEV-SNP and SGX."),
    "image": ("image", "Build and measure keep images."),
    "steward": ("steward", "The attestation service."),
    "drawbridge": ("drawbridge", "The registry of workloads."),
}

_EPILOG = """\b
Examples:
  garrison run hello.wasm
  garrison package publish ./chat-server drawbridge.example.com/jane/chat-server:0.1.0
  garrison deploy --steward https://steward.example.com --steward-root root.pem \\
      drawbridge.example.com/jane/chat-server:0.1.0

\b
Shell completion:
  eval "$(_GARRISON_COMPLETE=bash_source garrison)"     (or zsh_source, fish_source)
"""


class _Commands(click.Group):
    """Commands that are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's)
        return list(_COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  (click's)
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"garrison.cli.{_COMMANDS[cmd_name][0]}")
        command = module.command
        assert isinstance(command, click.Command)  # noqa: S101  (an invariant of this package)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002  (click's)
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.command(cls=_Commands, epilog=_EPILOG, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="garrison")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="GARRISON_LOG",
    help="How much of its own doings Garrison logs, to standard error.",
)
def cli(log_level: str) -> None:
    """Run WebAssembly workloads in attested keeps, and connect them."""
    log_to_stderr(log_level.upper())
    # Every request line of the HTTP client; ours say what matters.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def main(args: list[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    try:
        result = cli.main(args=args, prog_name="garrison", standalone_mode=False)
        # A reader that went away (`garrison ... | head`) is found out here at the latest.
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.Abort:
        return report(KeyboardInterrupt())
    except click.ClickException as error:
        with contextlib.suppress(OSError):  # the code is told also where nobody hears why
            error.show()
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (the last door: no traceback to users)
        return report(error)
    return result if isinstance(result, int) else 0
