"""The families of error, by the question that a caller asks of them.

Every error that Garrison raises for a reason outside its own code is one of these.
Branch on the type, never on the text. A message names the field, what was found and what
was expected; a hint, on a line of its own, says what to do. Neither ever holds a secret.

This module imports nothing: it stands on the path of every start.
"""

# No number that means anything here has more: a serial number has 160, a digest 512.
_MAX_BITS = 1024


class GarrisonError(Exception):
    """The base of all: something that a person can act on.

    Args:
        message: what went wrong, a clause without a capital or a full stop.
        field: the name of the offending field, as the user or the document knows it.
        found: what was there.
        expected: what should have been there.
        hint: what to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.found = None if found is None else _text(found)
        self.expected = None if expected is None else _text(expected)
        self.hint = hint

    def __str__(self) -> str:
        text = self.message if self.field is None else f"{self.field}: {self.message}"
        if self.found is not None:
            text += f"; found {self.found}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        return text


def _text(value: object) -> str:
    # Python refuses to write a number of thousands of digits, and DER may hold one: an error about
    # it must not become another.
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return f"a number of {value.bit_length()} bits"
    return str(value)


class Malformed(GarrisonError):
    """The input does not have the form it must have. Parsers raise this and nothing else."""


class Unverified(GarrisonError):
    """The input has the right form and is not genuine: a signature, chain or digest is wrong."""


class Rejected(GarrisonError):
    """The input is genuine, and a policy does not admit it."""


class Unavailable(GarrisonError):
    """Something outside could not be reached or did not answer in time; trying again may help."""


class Misuse(GarrisonError):
    """The user asked for something that cannot be, such as options that contradict each other."""
