"""One limit of a guest, and the line in the keep's log that says it was reached.

The guest gets an errno, which says little; whoever runs it wants to know which limit to raise. A
guest can run into one a million times a second, so it is told once.
"""


class Ceiling:
    """How much there may be of something.

    Args:
        name: the limit's, as in `garrison.formats.limits`.
        most: its value.
    """

    __slots__ = ("_told", "most", "name")

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        self._told = False

    def reached(self) -> None:
        """Log that it was reached, the first time."""
        if self._told:
            return
        self._told = True
        from garrison.keep.logs import keep_log  # late: it has nothing to say

        keep_log().warning(
            "the workload has reached a limit: limits.%s is %d; it is refused more",
            self.name,
            self.most,
        )
