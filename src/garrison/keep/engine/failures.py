"""How a guest's run can end other than by its own exit."""

from garrison.errors import GarrisonError


class Trap(GarrisonError):
    """The guest did what WebAssembly forbids; the message holds its backtrace.

    Attributes:
        exit_code: what a command ends with, 128 + SIGABRT as a native program would.
    """

    exit_code = 134


class Interrupted(GarrisonError):
    """A signal asked us to end.

    Args:
        number: the signal's number.

    Attributes:
        exit_code: what a command ends with, 128 + the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__({2: "interrupted", 15: "terminated"}.get(number, f"signal {number}"))
        self.exit_code = 128 + number
