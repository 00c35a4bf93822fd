"""What a simulated TEE reports, and the section of a steward's policy that admits it.

INSECURE: such a section names the simulator's root, under which anybody who has its directory can
claim anything.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from garrison.attesters.simulated_insecure import process_registers, root_key_sha256
from garrison.formats.evidence import Tee
from garrison.formats.tdx_report import REGISTER_SIZE
from garrison.measure import nitro, sgx, snp_policy, tdx

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.measure.prediction import Prediction

_NOT_OF_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


def predict_process(tee: Tee) -> Prediction:
    """Tell what the simulator of `tee` reports of a keep on the backend `nil`.

    Raises:
        Misuse: there is no simulator of `tee`.
    """
    found = process_registers(tee)
    match tee:
        case Tee.SNP:
            return snp_policy.predict(found["measurement"])
        case Tee.TDX:
            return tdx.prediction(found)
        case Tee.SGX:
            return sgx.prediction(found["mrenclave"], found["mrsigner"], 0, 0)
        case _:
            return nitro.prediction(found)


def predict_image(prediction: Prediction) -> Prediction:
    """Tell what a simulator reports of an image: what hardware alone would know is zero.

    Of SGX the signer too: a simulator reports product and version 0.
    """
    if prediction.tee is Tee.SGX:
        signer = bytes.fromhex(prediction.details["mrsigner"])
        return replace(prediction, registers={**prediction.registers, "mrsigner": signer})
    if prediction.tee is not Tee.TDX:
        return prediction
    zero = dict.fromkeys(prediction.unknown, bytes(REGISTER_SIZE))
    return tdx.prediction({**prediction.registers, **zero}, details=prediction.details)


def with_root(prediction: Prediction, directory: Path) -> Prediction:
    """The same, with the root of the simulator in `directory` in the policy.

    Raises:
        Misuse: the directory cannot be read, or is another TEE's.
        Malformed: it holds something else.
    """
    tee = prediction.tee
    key = root_key_sha256(tee, directory)
    name = _NOT_OF_A_NAME.sub("-", directory.resolve().name)[:64] or "simulator"
    lines = ["", "# INSECURE: whoever has the simulator's directory can claim anything."]
    if tee is Tee.NITRO:
        lines += ["[nitro.insecure_simulated_roots]", f'{name} = "{key}"']
    else:
        lines += [
            f"[{tee}.insecure_simulated_roots.{name}]",
            f'key_sha256 = "{key}"',
            f"endorsements = {json.dumps(str(directory.resolve()))}",
        ]
    return replace(prediction, policy=prediction.policy + "\n".join(lines) + "\n")
