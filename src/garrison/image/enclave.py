"""An image as an enclave image file, which AWS Nitro boots.

Rules: kernel, command line, file system, nothing else: no metadata with dates in it. So the same
image gives the same bytes. There is one ramdisk, so PCR1 covers all that PCR0 does, and PCR2 is
that of nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from garrison.formats.eif import Eif, EifSection, EifSectionKind

if TYPE_CHECKING:
    from garrison.image.folder import Image

#: What nitro-cli gives a kernel besides: an enclave has no PCI, and is reset by the keyboard.
COMMAND_LINE = " reboot=k pci=off"


def enclave_image(image: Image) -> Eif:
    """Make the enclave image file.

    Raises:
        OSError: a part cannot be read.
    """
    return Eif(
        (
            EifSection(EifSectionKind.KERNEL, image.kernel.read_bytes()),
            EifSection(EifSectionKind.CMDLINE, (image.command_line + COMMAND_LINE).encode()),
            EifSection(EifSectionKind.RAMDISK, image.initrd.read_bytes()),
        )
    )
