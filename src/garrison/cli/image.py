"""`garrison image`: keep images, and what the hardware will report of them."""

from __future__ import annotations

from pathlib import Path

import click

from garrison.cli import measure, ui


@click.group()
def command() -> None:
    """Build, measure and export keep images."""


@command.command(
    epilog="""\b
Examples:
  garrison image build
  garrison image build --output keep-image
"""
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to make; without it, a folder in the cache, where launches look.",
)
@click.option(
    "--inputs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another list of packages than that of this release (tools/image_lock.py).",
)
@click.option(
    "--mirror", metavar="URL", help="Where Debian's packages come from; it is not trusted."
)
@click.option("--json", "as_json", is_flag=True, help="Print what the image is, as JSON.")
def build(output: Path | None, inputs: Path | None, mirror: str | None, as_json: bool) -> None:
    """Build the image that keeps boot from: the same bytes, whoever builds it, and when.

    Needs Linux on x86-64, and the network the first time.
    """
    from garrison.image.build import Recipe, build, default_folder
    from garrison.image.fetch import MIRROR
    from garrison.image.lock import LOCK

    recipe = Recipe.of_this_release(inputs or LOCK)
    image = build(
        recipe,
        output or default_folder(recipe),
        mirror=mirror or MIRROR,
        say=ui.step,
        progress=ui.progress,
    )
    if as_json:
        ui.emit_json({"folder": str(image.folder), **image.about})
        return
    size = sum((image.folder / name).stat().st_size for name in image.about["parts"])
    ui.success(f"{image.digest}, {size / (1 << 20):.1f} MiB")
    ui.out(str(image.folder))


@command.command(
    epilog="""\b
Examples:
  garrison image export keep-image --format uki keep.efi
  garrison image export keep-image --format eif keep.eif
  garrison image export keep-image --format gramine keep-sgx
"""
)
@click.argument("image", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["uki", "eif", "gramine"]),
    required=True,
    help="Which form.",
)
@click.argument("output", type=click.Path(path_type=Path))
def export(image: Path, kind: str, output: Path) -> None:
    """Write an image in another form.

    A unified kernel image (uki) is started by UEFI, an enclave image file (eif) by AWS Nitro; both
    are one file. Of the first, what its stub will measure into the TPM's PCR 11 is told. For SGX
    (gramine) it is a folder of files and a manifest, which Gramine's own tools measure and sign.
    The same image gives the same bytes.
    """
    from garrison.cli.options import write_new
    from garrison.image.folder import load

    if kind == "gramine":
        from garrison.image import gramine

        size = gramine.export(load(image), output)
        ui.success(f"{output}, {size / (1 << 20):.1f} MiB; sign it as {gramine.TEMPLATE} says")
        return
    if kind == "uki":
        from garrison.image.uki import unified
        from garrison.measure.uki import pcr11

        content = unified(load(image))
        measured = f", PCR11 (SHA-256) {pcr11(content).hex()}"
    else:
        from garrison.image.enclave import enclave_image

        content = enclave_image(load(image)).to_bytes()
        measured = ""
    write_new(output, content)
    ui.success(f"{output}, {len(content) / (1 << 20):.1f} MiB{measured}")


command.add_command(measure.command, "measure")
