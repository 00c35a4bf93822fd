"""`garrison image measure`: what the hardware will report of an image, before it boots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from garrison.cli import ui
from garrison.cli.options import read_file
from garrison.cli.sign import parse_hex, parse_integer
from garrison.errors import Misuse

if TYPE_CHECKING:
    from garrison.formats.ovmf import Firmware
    from garrison.measure.prediction import Prediction

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog="""\b
Examples:
  garrison image measure keep-image --tee snp --policy
  garrison image measure --tee snp --ovmf OVMF.amdsev.fd --kernel vmlinuz --initrd initrd.img \\
      --append "console=ttyS0" --vcpus 2 --vcpu-type EPYC-v4 --policy
"""
)
@click.argument(
    "image",
    required=False,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--tee",
    type=click.Choice(["snp", "tdx", "sgx", "nitro"]),
    help="Which TEE's report to predict.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--policy", "as_policy", is_flag=True, help="Print a section of a steward's policy.")
@click.option(
    "--insecure-simulate",
    metavar="TEE=DIR",
    help="What this simulator reports (see `garrison platform insecure-simulator`): with --tee, of"
    " the image; else of a keep on the nil backend. The policy admits its root.",
)
@click.option("--ovmf", type=_FILE, help="snp, tdx: the guest's firmware; default: that of IMAGE.")
@click.option("--kernel", type=_FILE, help="snp, tdx: the kernel that is booted directly.")
@click.option("--initrd", type=_FILE, help="snp, tdx: its initial file system.")
@click.option("--append", default="", help="snp, tdx: its command line.")
@click.option("--vcpus", type=int, default=1, show_default=True, help="snp: virtual processors.")
@click.option("--vcpu-type", default="EPYC-v4", show_default=True, help="snp: QEMU's -cpu.")
@click.option("--vcpu-signature", metavar="NUMBER", help="snp: CPUID leaf 1, EAX, instead.")
@click.option(
    "--guest-features",
    metavar="NUMBER",
    default="0x1",
    show_default=True,
    help="snp: SEV_FEATURES; kernels before 6.10 add 0x20, debug swap.",
)
@click.option(
    "--guest-policy",
    metavar="NUMBER",
    default="0x30000",
    show_default=True,
    help="snp: the guest policy, which a report has beside the measurement.",
)
@click.option(
    "--vmm",
    type=click.Choice(["qemu", "ec2", "gce"]),
    default="qemu",
    show_default=True,
    help="snp: who launches the guest.",
)
@click.option(
    "--firmware-digest",
    metavar="HEX",
    help="snp: the digest after the firmware's pages, where --ovmf is not all of it.",
)
@click.option(
    "--signatures",
    type=_FILE,
    help="snp: what `garrison sign` made of this image; the policy demands its keys then.",
)
@click.option(
    "--event-log",
    type=_FILE,
    help="tdx: the event log (CCEL) of a guest on the same machine, which gives RTMR0.",
)
@click.option("--sigstruct", type=_FILE, help="sgx: the enclave's SIGSTRUCT, as Gramine made it.")
@click.option("--eif", type=_FILE, help="nitro: the enclave image file.")
@click.pass_context
def command(
    ctx: click.Context,
    image: Path | None,
    tee: str | None,
    as_json: bool,
    as_policy: bool,
    ovmf: Path | None,
    kernel: Path | None,
    initrd: Path | None,
    append: str,
    vcpus: int,
    vcpu_type: str,
    vcpu_signature: str | None,
    guest_features: str,
    guest_policy: str,
    vmm: str,
    firmware_digest: str | None,
    signatures: Path | None,
    event_log: Path | None,
    sigstruct: Path | None,
    eif: Path | None,
    insecure_simulate: str | None,
) -> None:
    """Print what the hardware will report of an image.

    IMAGE is a folder that `garrison image build` made: kernel, initial file system and command
    line are its own then.

    Without --tee, what a simulated TEE reports of a keep on the nil backend: the SHA-384 of the
    code of Garrison as it is installed here. Either is what a steward's policy lists to admit
    exactly this image.
    """
    if as_json and as_policy:
        raise Misuse("one of them", field="--json, --policy", found="both")
    _check_options(ctx, tee)
    if image is not None:
        if kernel is not None or initrd is not None or append or eif is not None:
            raise Misuse("one of them", field="IMAGE", found="and --kernel, --initrd, --eif ...")
        kernel, initrd, append, firmware = _parts(image, tee)
        ovmf = ovmf or firmware
    match tee:
        case None:
            if insecure_simulate is None:
                _process(as_json, as_policy)
                return
            prediction = _simulated_process(insecure_simulate)
        case "tdx":
            prediction = _tdx(ovmf, kernel, initrd, append, event_log)
        case "sgx":
            prediction = _sgx(sigstruct)
        case "nitro":
            prediction = _nitro(eif) if image is None else _nitro_image(image)
        case _:
            prediction = _snp(
                ovmf=ovmf,
                kernel=kernel,
                initrd=initrd,
                append=append,
                vcpus=vcpus,
                vcpu_type=vcpu_type,
                vcpu_signature=vcpu_signature,
                guest_features=guest_features,
                guest_policy=guest_policy,
                vmm=vmm,
                firmware_digest=firmware_digest,
                signatures=signatures,
            )
    if insecure_simulate is not None:
        prediction = _of_simulator(prediction, insecure_simulate)
    _print(prediction, as_json, as_policy)


def _simulated_process(simulator: str) -> Prediction:
    from garrison.attesters.simulated_insecure import parse_simulator
    from garrison.measure.simulated_insecure import predict_process

    tee, _ = parse_simulator(simulator, "--insecure-simulate")
    return predict_process(tee)


def _of_simulator(prediction: Prediction, simulator: str) -> Prediction:
    from garrison.attesters.simulated_insecure import parse_simulator
    from garrison.measure.simulated_insecure import predict_image, with_root

    tee, directory = parse_simulator(simulator, "--insecure-simulate")
    if tee != prediction.tee:
        raise Misuse(
            "a simulator of another TEE",
            field="--insecure-simulate",
            found=tee,
            expected=prediction.tee,
        )
    return with_root(predict_image(prediction), Path(directory))


# What an option is for; one that is given for another TEE would seem to count and does not.
_BOOT_OPTIONS = {"image", "ovmf", "kernel", "initrd", "append"}
_OPTIONS = {
    "snp": _BOOT_OPTIONS
    | {"vcpus", "vcpu_type", "vcpu_signature", "guest_features", "guest_policy", "vmm"}
    | {"firmware_digest", "signatures"},
    "tdx": _BOOT_OPTIONS | {"event_log"},
    "sgx": {"sigstruct"},
    "nitro": {"image", "eif"},
}


# What only QEMU shows a guest's first registers.
_OF_QEMU = ("vcpu_type", "vcpu_signature")


def _check_options(ctx: click.Context, tee: str | None) -> None:
    allowed = _OPTIONS.get(tee or "", set()) | {"tee", "as_json", "as_policy", "insecure_simulate"}
    given = {
        name
        for name in ctx.params
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    for name in ctx.params:
        found = None
        if name not in allowed:
            found = f"--tee {tee}" if tee else "no --tee"
        elif name in _OF_QEMU and ctx.params["vmm"] != "qemu":
            found = f"--vmm {ctx.params['vmm']}"
        if name in given and found is not None:
            field = "IMAGE" if name == "image" else "--" + name.replace("_", "-")
            raise Misuse("is not for this", field=field, found=found)
    if given.issuperset(_OF_QEMU):
        raise Misuse("one of them", field="--vcpu-type, --vcpu-signature", found="both")


def _print(prediction: Prediction, as_json: bool, as_policy: bool) -> None:
    if as_json:
        ui.emit_json(prediction.as_json())
        return
    ui.out(prediction.policy.rstrip("\n") if as_policy else prediction.as_hex())
    for register, reason in prediction.unknown.items():
        ui.warn(f"{register} cannot be known from the image: {reason}")


def _parts(folder: Path, tee: str | None) -> tuple[Path | None, Path | None, str, Path | None]:
    """What of an image `tee` boots: kernel, initial file system, command line, firmware."""
    from garrison.image.folder import FIRMWARE, load

    image = load(folder)
    if tee is None or tee == "nitro":
        return None, None, "", None
    # An image of an older release has none, and then --ovmf is missing.
    there = FIRMWARE[tee] in image.about["parts"]
    line = image.command_line_in(tee)
    return image.kernel, image.initrd, line, image.firmware(tee) if there else None


def _process(as_json: bool, as_policy: bool) -> None:
    from garrison.attesters.simulator_directory_insecure import process_measurement

    measurement = process_measurement()
    if as_json:
        ui.emit_json({"backend": "nil", "measurement": measurement.hex()})
    elif as_policy:
        from garrison.measure import snp_policy

        ui.out(snp_policy.predict(measurement).policy.rstrip("\n"))
    else:
        ui.out(measurement.hex())


def _required(path: Path | None, option: str) -> Path:
    if path is None:
        raise Misuse("missing", field=option, expected="a file")
    return path


def _firmware(ovmf: Path | None) -> Firmware:
    from garrison.formats.ovmf import MAX_FIRMWARE, Firmware

    return Firmware.from_bytes(read_file(_required(ovmf, "--ovmf"), MAX_FIRMWARE))


def _snp(
    *,
    ovmf: Path | None,
    kernel: Path | None,
    initrd: Path | None,
    append: str,
    vcpus: int,
    vcpu_type: str,
    vcpu_signature: str | None,
    guest_features: str,
    guest_policy: str,
    vmm: str,
    firmware_digest: str | None,
    signatures: Path | None,
) -> Prediction:
    from garrison.image.folder import MAX_PART
    from garrison.measure import snp, snp_policy

    if kernel is None and (initrd is not None or append):
        raise Misuse("missing", field="--kernel", expected="with --initrd and --append")
    hashes = None
    if kernel is not None:
        hashes = snp.KernelHashes.of(
            read_file(kernel, MAX_PART),
            b"" if initrd is None else read_file(initrd, MAX_PART),
            append,
        )
    digest = snp.launch_digest(
        _firmware(ovmf),
        vcpus=vcpus,
        signature=snp.vcpu_signature(vcpu_type)
        if vcpu_signature is None
        else parse_integer(vcpu_signature, "--vcpu-signature"),
        kernel=hashes,
        guest_features=parse_integer(guest_features, "--guest-features"),
        vmm=snp.Vmm(vmm),
        firmware_digest=None
        if firmware_digest is None
        else parse_hex(firmware_digest, snp.DIGEST_SIZE, "--firmware-digest"),
    )
    policy = parse_integer(guest_policy, "--guest-policy")
    if signatures is None:
        return snp_policy.predict(digest, policy)
    from garrison.measure.signatures import MAX_SIGNATURES, Signatures

    auth = Signatures.from_json(read_file(signatures, MAX_SIGNATURES)).of_snp(digest, policy)
    return snp_policy.predict(digest, policy, id_key=auth.id_key, author_key=auth.author.author_key)


def _tdx(
    ovmf: Path | None,
    kernel: Path | None,
    initrd: Path | None,
    append: str,
    event_log: Path | None,
) -> Prediction:
    from garrison.formats.ccel import MAX_LOG
    from garrison.image.folder import MAX_PART
    from garrison.measure import tdx

    if kernel is None and (initrd is not None or append):
        raise Misuse("missing", field="--kernel", expected="with --initrd and --append")
    return tdx.predict(
        _firmware(ovmf),
        kernel=None if kernel is None else read_file(kernel, MAX_PART),
        initrd=None if initrd is None else read_file(initrd, MAX_PART),
        append=append,
        event_log=None if event_log is None else read_file(event_log, MAX_LOG),
    )


def _sgx(sigstruct: Path | None) -> Prediction:
    from garrison.formats.sgx_sigstruct import SIGSTRUCT_SIZE, Sigstruct
    from garrison.measure import sgx

    path = _required(sigstruct, "--sigstruct")
    return sgx.predict(Sigstruct.from_bytes(read_file(path, SIGSTRUCT_SIZE)))


def _nitro_image(folder: Path) -> Prediction:
    from garrison.image.enclave import enclave_image
    from garrison.image.folder import load
    from garrison.measure import nitro

    return nitro.predict(enclave_image(load(folder)))


def _nitro(eif: Path | None) -> Prediction:
    from garrison.formats.eif import MAX_EIF, Eif
    from garrison.measure import nitro

    return nitro.predict(Eif.from_bytes(read_file(_required(eif, "--eif"), MAX_EIF)))
