"""wasi:cli: arguments, environment, standard streams, and the end.

No standard stream is told to be a terminal: what a keep's host does with it is not the
component's business, and what one can do with a terminal here is nothing.
"""

from __future__ import annotations

from garrison.keep.component.instance import Ended
from garrison.keep.component.wasi.streams import InputStream, OutputStream, Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garrison.keep.component.host import Host

WIT = """
package wasi:cli;
interface environment {
    get-environment: func() -> list<tuple<string, string>>;
    get-arguments: func() -> list<string>;
    initial-cwd: func() -> option<string>;
}
interface exit {
    exit: func(status: result);
    exit-with-code: func(status-code: u8);
}
interface run {
    run: func() -> result;
}
interface stdin {
    use wasi:io/streams.{input-stream};
    get-stdin: func() -> input-stream;
}
interface stdout {
    use wasi:io/streams.{output-stream};
    get-stdout: func() -> output-stream;
}
interface stderr {
    use wasi:io/streams.{output-stream};
    get-stderr: func() -> output-stream;
}
interface terminal-input {
    resource terminal-input;
}
interface terminal-output {
    resource terminal-output;
}
interface terminal-stdin {
    use terminal-input.{terminal-input};
    get-terminal-stdin: func() -> option<terminal-input>;
}
interface terminal-stdout {
    use terminal-output.{terminal-output};
    get-terminal-stdout: func() -> option<terminal-output>;
}
interface terminal-stderr {
    use terminal-output.{terminal-output};
    get-terminal-stderr: func() -> option<terminal-output>;
}
"""


def environment_get_environment(host: Host) -> list[tuple[str, str]]:
    """Give the environment."""
    return host.env


def environment_get_arguments(host: Host) -> list[str]:
    """Give the arguments, the program's name first."""
    return host.args


def environment_initial_cwd(_host: Host) -> str:
    """Give the directory that relative paths start from: the root of the virtual file system."""
    return "/"


def exit_exit(_host: Host, status: tuple[str, None]) -> None:
    """End, well or not."""
    raise Ended(0 if status[0] == "ok" else 1)


def exit_exit_with_code(_host: Host, code: int) -> None:
    """End with an exit code."""
    raise Ended(code)


def stdin_get_stdin(host: Host) -> InputStream:
    """Give standard input."""
    return InputStream(Shared(host.streams[0]))


def stdout_get_stdout(host: Host) -> OutputStream:
    """Give standard output."""
    return OutputStream(host, Shared(host.streams[1]))


def stderr_get_stderr(host: Host) -> OutputStream:
    """Give standard error."""
    return OutputStream(host, Shared(host.streams[2]))


def terminal_stdin_get_terminal_stdin(_host: Host) -> None:
    """Give none."""


def terminal_stdout_get_terminal_stdout(_host: Host) -> None:
    """Give none."""


def terminal_stderr_get_terminal_stderr(_host: Host) -> None:
    """Give none."""
