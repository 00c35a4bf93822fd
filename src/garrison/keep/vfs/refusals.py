"""What a guest is told of a refusal, an errno; the reason is in the keep's log."""

from garrison.errors import GarrisonError, Malformed, Misuse, Rejected, Unavailable, Unverified
from garrison.keep.engine.failures import Ended
from garrison.keep.vfs import errno
from garrison.keep.vfs.errno import Errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

_REFUSALS: tuple[tuple[type[GarrisonError], int], ...] = (
    (Rejected, errno.ACCES),
    (Unverified, errno.ACCES),
    (Malformed, errno.INVAL),
    (Unavailable, errno.TIMEDOUT),
    (Misuse, errno.ACCES),
)


def told(what: str, ask: "Callable[[], T]") -> "T":
    """Do what the guest asks for, `what`, and log it where that is refused.

    Raises:
        Errno: it is refused.
        OSError: the host's reason.
    """
    try:
        return ask()
    except GarrisonError as error:
        if isinstance(error, Ended):
            raise
        from garrison.keep.logs import keep_log  # late: it has nothing to say

        keep_log().warning("refused to the workload: %s: %s", what, error)
        number = next((n for family, n in _REFUSALS if isinstance(error, family)), errno.ACCES)
        raise Errno(number) from error
