"""Tags of public repositories that were asked for lately, as they are answered.

An answer is as good as it was while the files that it was made of look as they did: the tag, the
repository's configuration and its policy, and the yank, which is not there. Looking is cheap: it
is done for each request, for the folder is the only truth. A store that is not a folder has no
such look, and nothing is kept of it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from garrison.drawbridge import rules
from garrison.errors import GarrisonError
from garrison.service.known import Known

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.drawbridge.folder import Mark
    from garrison.drawbridge.layout import Name
    from garrison.drawbridge.named import Named
    from garrison.drawbridge.store import Store

# A tag is some 400 bytes, its head as much again.
_MOST = 1024
_LONGEST = 4096


class KnownTags:
    """The answers of tags, by the target of the request."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[bytes, tuple[tuple[tuple[str, Mark | None], ...], Known]] = (
            OrderedDict()
        )

    def find(self, target: bytes) -> Known | None:
        """The answer to a GET of `target`, if it is known and still true."""
        kept = self._kept.get(target)
        if kept is None:
            return None
        try:
            is_true = all(self._store.mark(key) == mark for key, mark in kept[0])
        except GarrisonError:
            # The long way says what is wrong.
            is_true = False
        if not is_true:
            del self._kept[target]
            return None
        self._kept.move_to_end(target)
        return kept[1]

    def keep(
        self, target: bytes, path: str, name: Name, tag: Named, headers: Mapping[str, str]
    ) -> None:
        """Keep the answer that `tag`, which was not yanked, just got, if everybody gets it.

        Args:
            target: of the request.
            path: of the request, decoded.
            name: the tag's.
            tag: what the store had under it.
            headers: of the answer.
        """
        policy = self._store.kept(name.policy().key())
        repository = self._store.kept(name.repository().key())
        stored = self._store.kept(name.key())
        # Where a policy was read lately, and may be gone, its mark tells.
        config = policy or repository
        if config is None or stored is None or stored[1] is not tag or len(tag.body) > _LONGEST:
            return
        if not rules.RepositoryConfig.from_bytes(config[1].body).public:
            return
        marks = (
            (name.policy().key(), None if policy is None else policy[0]),
            (name.repository().key(), None if repository is None else repository[0]),
            (name.key(), stored[0]),
            (name.yank().key(), None),
        )
        lines = (f"{field.lower()}: {value}\r\n" for field, value in headers.items())
        self._kept[target] = (
            marks,
            Known(name.kind, path, "".join(lines).encode("latin-1"), tag.body),
        )
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)
