"""Where a keep logs to: standard error, and how much.

For most it is set up at their start. `logging` takes the shortest start 5 ms, which is a third of
it, so what stands on its way asks here for the logger when it has something to say.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

_level: str | None = None


def set_level(level: str) -> None:
    """Say how much is to be logged, by the name of a level of `logging`, in any case."""
    global _level  # noqa: PLW0603  (where a process logs to is the process's)
    _level = level.upper()


def set_up() -> None:
    """Have `logging` do as was said; where nothing was, as it does by itself."""
    if _level is None:
        return
    import logging  # late: see above

    logging.basicConfig(level=_level, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def keep_log() -> "logging.Logger":
    """The logger of a keep."""
    import logging  # late: see above

    set_up()
    return logging.getLogger("garrison.keep")
