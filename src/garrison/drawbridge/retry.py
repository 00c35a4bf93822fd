"""Which answers of a drawbridge are asked for again, and after how long.

Only what says "not now" is tried again: 429, 502, 503 and 504. Every request of the API may be sent
twice, since what a PUT creates is immutable. Any other answer is final, and so is the last try.
"""

from __future__ import annotations

TRIES = 4
# What says "not now"; a keep's steward is asked again by them too.
NOT_NOW = frozenset({429, 502, 503, 504})
_FIRST_SECONDS = 0.25
# A server may not hold its clients for longer than this between two tries.
_MOST_SECONDS = 10.0


def wait_before_retry(
    status: int, retry_after: str | None, tried: int, chance: float, tries: int = TRIES
) -> float | None:
    """Seconds to wait before the request is sent again; None if the answer is final.

    Args:
        status: of the answer.
        retry_after: its header `Retry-After`.
        tried: how many times the request was sent, at least 1.
        chance: in [0, 1), so that clients refused together do not come back together.
        tries: how many there are in all.
    """
    if status not in NOT_NOW or tried >= tries:
        return None
    wait = seconds_to_wait(tried, chance)
    asked = seconds_asked(retry_after)
    if asked is not None:
        if asked > _MOST_SECONDS:
            return None
        wait += asked
    return wait


def seconds_asked(retry_after: str | None) -> float | None:
    """For how long a header `Retry-After` asks to be left alone; None if it does not.

    A date in it (RFC 9110, section 10.2.3) is ignored, as no clock is read here.
    """
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return None
    # Nine digits are more than enough; longer numbers are not worth parsing.
    return float(retry_after[:9])


def seconds_to_wait(tried: int, chance: float) -> float:
    """Seconds between the try `tried` (from 1) and the next: doubled each time, and scattered."""
    seconds: float = _FIRST_SECONDS * 2 ** (tried - 1) * (0.5 + chance)
    return seconds
