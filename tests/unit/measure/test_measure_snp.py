"""Launch digests of SNP guests, against published ones and a second implementation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sevsnpmeasure import guest, vcpu_types  # type: ignore[import-untyped]  # it has no types
from sevsnpmeasure.sev_mode import SevMode  # type: ignore[import-untyped]  # it has no types
from sevsnpmeasure.vmm_types import VMMType  # type: ignore[import-untyped]  # it has no types
from tests.vectors import vectors

from garrison.cli.main import main
from garrison.errors import Malformed, Misuse
from garrison.formats.ovmf import Firmware, SevSection
from garrison.formats.snp_id_block import IdBlock
from garrison.measure import sev_keys, snp
from garrison.measure.signatures import Signatures
from garrison.testing.firmware import SEV_SECTIONS, fake_firmware

if TYPE_CHECKING:
    from pathlib import Path

_EPYC = snp.vcpu_signature("EPYC-v4")


def _second_opinion(directory: Path, firmware: bytes, **wanted: Any) -> str:
    """What sev-snp-measure says."""
    paths = {"ovmf": directory / "ovmf", "kernel": directory / "kernel"}
    paths["initrd"] = directory / "initrd"
    paths["ovmf"].write_bytes(firmware)
    for name in ("kernel", "initrd"):
        paths[name].write_bytes(wanted.get(name) or b"")
    with_kernel = wanted.get("kernel") is not None
    digest = guest.calc_launch_digest(
        SevMode.SEV_SNP,
        wanted["vcpus"],
        wanted["signature"],
        str(paths["ovmf"]),
        str(paths["kernel"]) if with_kernel else "",
        str(paths["initrd"]) if with_kernel else "",
        wanted.get("append", ""),
        wanted["features"],
        vmm_type=VMMType[wanted.get("vmm", "QEMU")],
    )
    assert isinstance(digest, bytes)
    return digest.hex()


@pytest.mark.vectors
def test_published_digests() -> None:
    directory = vectors("measure") / "snp-launch-digest-qemu"
    cases = json.loads((directory / "cases.json").read_text())
    assert len(cases) >= 14
    for case in cases:
        firmware = Firmware.from_bytes((directory / case["ovmf"]).read_bytes())
        kernel = snp.KernelHashes.of(b"", b"", case["cmdline"]) if case["kernel"] else None
        digest = snp.launch_digest(
            firmware,
            vcpus=case["vcpus"],
            signature=snp.vcpu_signature(case["vcpu_type"]) if case["vcpu_type"] else 0,
            kernel=kernel,
            guest_features=case["guest_features"],
            vmm=snp.Vmm(case["vmm"]),
            firmware_digest=bytes.fromhex(case["ovmf_hash"]) if case["ovmf_hash"] else None,
        )
        assert digest.hex() == case["digest"], case["name"]


@pytest.mark.vectors
def test_a_published_firmware_without_a_page_for_hashes_boots_no_kernel() -> None:
    directory = vectors("measure") / "snp-launch-digest-qemu"
    firmware = Firmware.from_bytes((directory / "ovmf_OvmfX64_suffix.bin").read_bytes())
    with pytest.raises(Misuse, match="nothing would bind the kernel"):
        snp.launch_digest(
            firmware, vcpus=1, signature=_EPYC, kernel=snp.KernelHashes.of(b"", b"", "")
        )


@settings(max_examples=60, deadline=None)
@given(
    pages=st.integers(3, 9),
    filler=st.binary(min_size=1, max_size=32),
    vcpus=st.integers(1, 5),
    model=st.sampled_from(sorted(vcpu_types.CPU_SIGS)),
    features=st.sampled_from([0x1, 0x5, 0x21, 0xFFFFFFFF]),
    vmm=st.sampled_from(["QEMU", "ec2", "gce"]),
    kernel=st.none() | st.binary(max_size=64),
    initrd=st.binary(max_size=64),
    append=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40),
    reset=st.integers(1, 0xFFFFFFFF),
    offset=st.integers(0, 0xF00),
    svsm=st.booleans(),
)
def test_the_second_implementation_agrees(
    tmp_path_factory: pytest.TempPathFactory, **drawn: Any
) -> None:
    sections = [*SEV_SECTIONS, *([(0x810000, 0x2000, 4)] if drawn["svsm"] else [])]
    firmware = fake_firmware(
        pages=drawn["pages"],
        filler=drawn["filler"],
        sev=sections,
        hashes=0x80F000 + drawn["offset"],
        reset=drawn["reset"],
    )
    kernel = drawn["kernel"]
    append = drawn["append"] if kernel is not None else ""
    signature = snp.vcpu_signature(drawn["model"])
    assert signature == vcpu_types.CPU_SIGS[drawn["model"]]
    digest = snp.launch_digest(
        Firmware.from_bytes(firmware),
        vcpus=drawn["vcpus"],
        signature=signature,
        kernel=None if kernel is None else snp.KernelHashes.of(kernel, drawn["initrd"], append),
        guest_features=drawn["features"],
        vmm=snp.Vmm(drawn["vmm"].lower()),
    )
    assert digest.hex() == _second_opinion(
        tmp_path_factory.mktemp("opinion"),
        firmware,
        vcpus=drawn["vcpus"],
        signature=signature,
        features=drawn["features"],
        vmm=drawn["vmm"],
        kernel=kernel,
        initrd=drawn["initrd"],
        append=append,
    )


@pytest.mark.parametrize(
    ("vcpus", "digest"),
    [
        (
            1,
            (
                "c44badecc6c5fe8e586dbc37cc908fa3422b039e5aad72851af5135c2fcbfa5e"
                "e7269e9334ba25972b8ab09d530964a0"
            ),
        ),
        (
            3,
            (
                "47abe8e93c15fdc44c7eaaa5acfa4def5ee77be94e7210eb05065c391935e295"
                "13c6fc2f00528e9cbe52a244c0980db8"
            ),
        ),
    ],
)
def test_google_s_own_tool_agrees_on_milan(vcpus: int, digest: str) -> None:
    """As gce-tcb-verifier (74582c0) computes it; on Genoa it has the registers elsewhere."""
    firmware = Firmware.from_bytes(fake_firmware(sev=SEV_SECTIONS[:3]))
    found = snp.launch_digest(firmware, vcpus=vcpus, signature=0, kernel=None, vmm=snp.Vmm.GCE)
    assert found.hex() == digest


def test_every_input_counts() -> None:
    """One thing changed at a time: no two digests are the same."""
    usual: dict[str, Any] = {"vcpus": 2, "signature": _EPYC, "kernel": (b"k", b"i", "a")}
    changes: list[dict[str, Any]] = [
        {},
        {"vcpus": 1},
        {"signature": snp.vcpu_signature("EPYC-Milan")},
        {"guest_features": 0x21},
        {"kernel": (b"K", b"i", "a")},
        {"kernel": (b"k", b"I", "a")},
        {"kernel": (b"k", b"i", "a ")},
        {"kernel": None},
        {"firmware": fake_firmware(filler=b"\x91")},
        {"firmware": fake_firmware(reset=0x80B000)},
        {"firmware": fake_firmware(sev=SEV_SECTIONS[::-1])},
    ]
    digests = set()
    for change in changes:
        wanted = usual | change
        firmware = Firmware.from_bytes(wanted.pop("firmware", fake_firmware()))
        kernel = wanted.pop("kernel")
        hashes = None if kernel is None else snp.KernelHashes.of(*kernel)
        digests.add(snp.launch_digest(firmware, kernel=hashes, **wanted))
    assert len(digests) == len(changes)


@pytest.mark.parametrize("model", ["host", "max", "EPYC-Nowhere", "EPYC-v", "", "qemu64"])
def test_a_model_that_is_not_known_is_not_guessed(model: str) -> None:
    with pytest.raises(Misuse, match="--vcpu-type"):
        snp.vcpu_signature(model)


def test_what_cannot_be_launched_has_no_digest() -> None:
    def digest(firmware: bytes, vcpus: int = 1, *, kernel: bool = False) -> bytes:
        hashes = snp.KernelHashes.of(b"", b"", "") if kernel else None
        read = Firmware.from_bytes(firmware)
        return snp.launch_digest(read, vcpus=vcpus, signature=_EPYC, kernel=hashes)

    with pytest.raises(Misuse, match="cannot launch an SNP guest"):
        digest(bytes(4096))
    with pytest.raises(Misuse, match="--vcpus"):
        digest(fake_firmware(), 0)
    with pytest.raises(Misuse, match="--vcpus"):
        digest(fake_firmware(), 5000)
    with pytest.raises(Misuse, match="one processor alone"):
        digest(fake_firmware(reset=0), 2)
    # The firmware looks for the hashes where they are not: it would boot anything.
    with pytest.raises(Misuse, match="nothing would bind the kernel"):
        digest(fake_firmware(hashes=0x70F000), kernel=True)
    with pytest.raises(Misuse, match="leaves its page"):
        digest(fake_firmware(hashes=0x80FFF0), kernel=True)
    # Of more than a page only the first was measured; and gigabytes would take minutes, or memory.
    for index, name in ((1, "secrets"), (2, "cpuid")):
        for size in (0, 0x2000):
            sections = list(SEV_SECTIONS)
            sections[index] = (sections[index][0], size, sections[index][2])
            with pytest.raises(Misuse, match=f"section {name}: .*found {size} bytes"):
                digest(fake_firmware(sev=sections))
    for kind in (1, 0x10):
        sections = [*SEV_SECTIONS, (0x1000000, 0x4000000, kind)]
        with pytest.raises(Misuse, match="too large"):
            digest(fake_firmware(sev=sections))


@pytest.mark.parametrize(
    ("option", "code"),
    [
        ("--vcpu-signature=-1", 2),
        ("--vcpu-signature=0x1ffffffff", 2),
        ("--guest-features=-1", 2),
        ("--guest-features=0", 2),
        ("--guest-features=0x20", 2),
        ("--guest-features=0x10000000000000001", 2),
        ("--guest-policy=-1", 65),
        ("--guest-policy=0", 65),
        ("--guest-policy=0x4030000", 65),
        ("--guest-policy=0x10000000000030000", 65),
        ("--append=a\0b", 2),
        ("--append=\udcff", 2),
    ],
)
def test_numbers_and_lines_that_no_guest_has_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, code: int
) -> None:
    """Such a guest does not start: its digest would be nobody's, or an error of ours."""
    assert main(_command(tmp_path, option)) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert option.partition("=")[0] in said.err


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 4096))
def test_parsers_raise_malformed_alone(noise: bytes, offset: int) -> None:
    image = bytearray(fake_firmware(tdx=[(0, 0x1000, 0xFFFFC000, 0x1000, 0, 1)]))
    where = (len(image) - 4096 + offset - 2 * 4096 * (offset % 2)) % len(image)
    image[where : where + len(noise)] = noise
    try:
        read = Firmware.from_bytes(bytes(image[: len(image) // 4096 * 4096]))
        read.tdx()
    except Malformed:
        return
    assert all(isinstance(section.kind, SevSection) for section in read.sev)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"", "0 bytes"),
        (bytes(4097), "4097 bytes"),
        (fake_firmware(sev=[(0x800000, 0x1000, 9)]), "type"),
        (fake_firmware(sev=[(0x800001, 0x1000, 1)]), "range"),
        (fake_firmware(sev=[(0xFFFFF000, 0x2000, 1)]), "range"),
        (fake_firmware(sev=[(0, 0x1000, 1)] * 65), "number of sections"),
    ],
    ids=["empty", "not whole pages", "kind", "crooked", "beyond", "many"],
)
def test_a_firmware_that_cannot_be(image: bytes, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        Firmware.from_bytes(image)


def _command(tmp_path: Path, *more: str) -> list[str]:
    for name, data in (("ovmf", fake_firmware()), ("kernel", b"kernel"), ("initrd", b"initrd")):
        (tmp_path / name).write_bytes(data)
    files = [f"--{name}={tmp_path / name}" for name in ("ovmf", "kernel", "initrd")]
    return ["image", "measure", "--tee", "snp", *files, "--append=quiet", "--vcpus=2", *more]


def test_the_command_in_its_three_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_command(tmp_path)) == 0
    digest = capsys.readouterr().out.strip()
    expected = _second_opinion(
        tmp_path,
        fake_firmware(),
        vcpus=2,
        signature=_EPYC,
        features=1,
        kernel=b"kernel",
        initrd=b"initrd",
        append="quiet",
    )
    assert digest == expected
    assert main(_command(tmp_path, "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["registers"] == {"measurement": digest}
    assert main(_command(tmp_path, "--policy")) == 0
    section = capsys.readouterr().out
    (tmp_path / "policy.toml").write_text(section)
    assert main(["steward", "policy", "check", str(tmp_path / "policy.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"tees": ["snp"], "openings": []}
    assert f'measurements = ["{digest}"]' in section
    assert "smt = true" in section
    # A host that may read the guest is never admitted by what a command wrote.
    assert main(_command(tmp_path, "--policy", "--guest-policy=0xb0000")) == 0
    assert "\n# debug = true" in capsys.readouterr().out


def test_the_policy_demands_the_keys_that_signed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_command(tmp_path)) == 0
    digest = capsys.readouterr().out.strip()
    author, id_key = (sev_keys.load(sev_keys.create(), "key") for _ in range(2))
    vouched = sev_keys.sign_id_key(author, id_key)

    def signatures(measurement: str, policy: int = 0x30000) -> str:
        block = IdBlock(bytes.fromhex(measurement), bytes(16), bytes(16), 0, policy)
        signed = Signatures("1", (block, sev_keys.sign_id_block(block, id_key, vouched)))
        (tmp_path / "image.sig").write_text(signed.to_json())
        return f"--signatures={tmp_path / 'image.sig'}"

    assert main(_command(tmp_path, "--policy", signatures(digest))) == 0
    section = capsys.readouterr().out
    assert f'id_key_digests = ["{sev_keys.public(id_key).digest().hex()}"]' in section
    assert f'author_key_digests = ["{sev_keys.public(author).digest().hex()}"]' in section
    assert main(_command(tmp_path, "--policy", signatures("00" * 48))) == 76
    assert "launch digest: another one is signed" in capsys.readouterr().err
    assert main(_command(tmp_path, "--policy", signatures(digest, 0xB0000))) == 76
    assert "guest policy: another one is signed" in capsys.readouterr().err
    (tmp_path / "image.sig").write_text(Signatures("1").to_json())
    assert main(_command(tmp_path, f"--signatures={tmp_path / 'image.sig'}")) == 76


@pytest.mark.parametrize(
    "options",
    [
        ["--tee=snp"],
        ["--tee=snp", "--append=quiet"],
        ["--json", "--policy"],
    ],
    ids=["no firmware", "command line alone", "two forms"],
)
def test_the_command_refuses_what_does_not_go_together(options: list[str]) -> None:
    assert main(["image", "measure", *options]) == 2


@pytest.mark.parametrize(
    "options",
    [
        ["--vcpu-type=EPYC-Milan", "--vcpu-signature=0x800f12"],
        ["--vmm=ec2", "--vcpu-type=EPYC-Milan"],
        ["--vmm=gce", "--vcpu-signature=0x800f12"],
    ],
)
def test_no_option_is_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """Who gives one would think that it counts."""
    assert main(_command(tmp_path, *options)) == 2
    assert "--vcpu-" in capsys.readouterr().err
    assert main(_command(tmp_path, options[0])) == 0
