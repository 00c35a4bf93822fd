"""What the first process of an image finds out before it loads anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from garrison.image import init

if TYPE_CHECKING:
    from pathlib import Path

# As Linux 6.12 writes it, in an SNP guest and, with feature 0x116, in a TD.
_FEATURES = "cpu:type:x86,ven0002fam0017mod0001:feature:,0000,0001,0115,0117,01160"


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("feature", [False, True])
def test_modules_for_evidence_are_for_confidential_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, device: bool, feature: bool
) -> None:
    place, features = tmp_path / "sev-guest", tmp_path / "modalias"
    if device:
        place.touch()
    features.write_text(_FEATURES + (",0116" if feature else "") + ",0121\n")
    monkeypatch.setattr(init, "_SNP_DEVICE", str(place))
    monkeypatch.setattr(init, "_FEATURES", str(features))
    assert init._confidential() == (device or feature)


def test_a_kernel_that_does_not_say_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a reason to go on without evidence, on a machine that may have it."""
    monkeypatch.setattr(init, "_SNP_DEVICE", str(tmp_path / "sev-guest"))
    monkeypatch.setattr(init, "_FEATURES", str(tmp_path / "modalias"))
    with pytest.raises(FileNotFoundError):
        init._confidential()
