"""What the store has under a name, and how it fails."""

from __future__ import annotations

from dataclasses import dataclass

from garrison.errors import Rejected, Unavailable


class Exists(Rejected):
    """The name is taken."""


class StorageFailure(Unavailable):
    """The store does not answer, or does not have what was put into it."""


class Damaged(StorageFailure):
    """The store answers, and does not have what was put into it."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a name stands for: a media type and a short body, exactly as they were put."""

    type: str
    body: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Named:
        """Read the object: the media type, a line feed, the body.

        Raises:
            Damaged: `data` was not stored by a drawbridge.
        """
        kind, feed, body = data.partition(b"\n")
        if not feed or not kind.isascii():
            raise damaged("not a media type, a line feed and a body")
        return cls(kind.decode("ascii"), body)

    def to_bytes(self) -> bytes:
        """Write the object."""
        return self.type.encode("ascii") + b"\n" + self.body


def damaged(note: str) -> Damaged:
    """The error where the store has something else; `note` is for the log."""
    error = Damaged("Storage backend failure")
    error.add_note(note)
    return error


def failed(error: Exception) -> StorageFailure:
    """The error where the store does not do what it is asked for."""
    # The original's words. Ours may hold addresses of the store: for the log, not for clients.
    failure = StorageFailure("Storage backend failure")
    failure.add_note(str(error))
    return failure
