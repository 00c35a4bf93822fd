"""One stack of real services for all end-to-end tests of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from garrison.testing.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A drawbridge and a steward with a user that is logged in."""
    directory: Path = tmp_path_factory.mktemp("stack")
    with Stack(directory, local_workloads=True) as stack:
        stack.start_services()
        stack.login()
        yield stack
