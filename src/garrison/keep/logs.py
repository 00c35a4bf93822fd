"""Where a keep logs to: standard error, and how much.

For most it is set up at their start. `logging` takes the shortest start 5 ms, which is a third of
it, so what stands on its way asks here for the logger when it has something to say.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

_level: str | None = None


def set_level(level: str) -> None:
    """Say how much is to be logged, by the name of a level of `logging`, in any case."""
    global _level  # noqa: PLW0603  (where a process logs to is the process's)
    _level = level.upper()


def set_up() -> None:
    """Have `logging` do as was said; where nothing was, that is for `keep_log`."""
    if _level is None:
        return
    import logging  # late: see above

    from garrison.terminal import log_to_stderr

    log_to_stderr(_level)
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def keep_log() -> "logging.Logger":
    """The logger of a keep."""
    import logging  # late: see above

    set_up()
    if _level is None:
        from garrison.terminal import log_to_stderr

        # As `logging` does by itself, but plainly.
        log_to_stderr("WARNING", "%(message)s")
    return logging.getLogger("garrison.keep")
