"""`garrison`, and the short way to `garrison run FILE [ARGS]`.

A guest's start should cost little more than the guest. So that one form, without any option,
imports next to nothing; every other goes to `garrison.cli`. What both do is the same, but that
the short way loads the network only when the guest uses it.
"""

import gc
import posix  # the part of `os` that is used here, and no file to load
import sys

# `garrison.formats.tree`: what a module may have. What is larger, or no file, is not read at once.
_MAX_FILE = 100_000_000


def main() -> int:
    """Run the command line, and return its exit code."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _open_missing_streams()
    try:
        return _main()
    except KeyboardInterrupt as error:
        # Before there is anything else that takes it for its own, as while modules are loaded.
        from garrison.terminal import ended, report

        return ended(report(error))


def _open_missing_streams() -> None:
    """Open as `/dev/null` what we were started without.

    Else the next connection that is opened has its number, and what the workload writes to
    standard error goes there, by no rule and in the clear.
    """
    while (number := posix.open("/dev/null", posix.O_RDWR)) < 3:
        posix.set_inheritable(number, True)  # noqa: FBT003  (it takes no keyword)
    posix.close(number)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  (for good)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _main() -> int:
    args = sys.argv[1:]
    if len(args) < 2 or args[0] != "run" or any(arg.startswith("-") for arg in args):
        return _command_line()
    # Options can be given as variables too.
    if any(name.startswith((b"GARRISON_", b"ENARX_")) for name in posix.environ):
        return _command_line()
    try:
        with open(args[1], "rb") as file:  # noqa: PTH123  (pathlib costs a start 5 ms)
            wasm = file.read() if 0 < posix.fstat(file.fileno()).st_size <= _MAX_FILE else None
    except OSError:
        wasm = None
    if wasm is None:
        # It says what is wrong with the path.
        return _command_line()
    return _run(wasm, args[2:])


def _command_line() -> int:
    if sys.flags.no_site:
        # We were started without, for speed (tools/launcher.py); from here on, be as usual.
        import site

        site.main()
    from garrison.terminal import ended, hear_interrupts

    hear_interrupts()
    from garrison.cli.main import main as command_line

    return ended(command_line())


def _run(wasm: bytes, args: list[str]) -> int:
    used = False
    try:
        # What is imported here lives to the end: looking for garbage in it is lost time.
        gc.disable()
        from garrison.keep.bare import LateNetwork, run

        gc.freeze()
        gc.enable()
        network = LateNetwork()
        try:
            code = run(wasm, args, network, cached=True)
        finally:
            used = network.used()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (no traceback to users)
        from garrison.terminal import report

        code = report(error)
    if used:
        from garrison.terminal import ended

        # Connections may still have their end to announce.
        return ended(code)
    # Nothing is left to be written: the guest's output goes around these streams, and `report`
    # writes to standard error, which keeps no line back. The rest of the interpreter's end is
    # memory given back piece by piece, which the kernel does at once.
    posix._exit(code)  # noqa: SLF001  (as `os._exit`)


if __name__ == "__main__":
    sys.exit(main())
