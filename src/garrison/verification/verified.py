"""`Verified[T]`: a value whose evidence was verified, a type that only this package can make.

Appraisal takes it, and nothing else: claims that somebody merely parsed cannot reach a policy.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")

_MINT = object()


class Verified(Generic[T]):
    """Holds `value`, of which every signature up to a pinned root was checked."""

    __slots__ = ("_value",)

    def __init__(self, value: T, *, mint: object = None) -> None:
        if mint is not _MINT:
            raise TypeError("only verification makes Verified values")
        self._value = value

    @property
    def value(self) -> T:
        """What was verified."""
        return self._value


def mint(value: T) -> Verified[T]:
    """Vouch for `value`; for the verifiers of this package alone."""
    return Verified(value, mint=_MINT)
