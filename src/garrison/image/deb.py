"""What a Debian package holds: deb(5), an `ar` archive with the files in `data.tar.xz`.

Rules: links keep their target, hard links become copies, and a package's own scripts are never
run. It refuses other compressions than xz, devices, and paths that leave the root.
"""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import PurePosixPath

from garrison.errors import Malformed
from garrison.image.cpio import Entry, check_paths

_MAGIC = b"!<arch>\n"
#: ar(5): name 16, time 12, owner 6, group 6, mode 8, size 10, end 2.
_HEADER = 60
_NAME = slice(0, 16)
_SIZE = slice(48, 58)
_END = slice(58, 60)
#: Against bombs: the cloud kernel with all its modules is below 200 MiB.
MAX_UNPACKED = 1 << 30
#: What reading a broken one raises: a KeyError for a hard link to nothing, an OverflowError for a
#: size that no machine has, a ValueError for a name that is no text.
_BROKEN = (
    *(lzma.LZMAError, tarfile.TarError, EOFError),
    *(ValueError, KeyError, OverflowError, RecursionError),
)


def files(package: bytes) -> dict[str, Entry]:
    """Read the files and links of a package, by their path without the leading `/`.

    Raises:
        Malformed: it is no package, or holds what an image cannot.
    """
    try:
        decompressor = lzma.LZMADecompressor()
        packed = _member(package, "data.tar.xz")
        unpacked = decompressor.decompress(packed, max_length=MAX_UNPACKED)
        if not decompressor.eof:
            raise Malformed(
                "a Debian package that has no end",
                found=f"{len(unpacked)} bytes and more",
                expected=f"at most {MAX_UNPACKED}",
            )
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as tar:
            return _entries(tar)
    except _BROKEN as error:
        raise Malformed("this is no Debian package", found=error) from error


def _member(package: bytes, wanted: str) -> bytes:
    """Find a member of an `ar` archive."""
    if not package.startswith(_MAGIC):
        raise Malformed("this is no Debian package", found=package[:8], expected=_MAGIC)
    at = len(_MAGIC)
    found = []
    while at < len(package):
        header = package[at : at + _HEADER]
        size = header[_SIZE].strip()
        if header[_END] != b"`\n" or not size.isdigit():
            raise Malformed("broken ar header in a Debian package", found=header)
        name = header[_NAME].decode("ascii", "replace").rstrip(" /")
        at += _HEADER
        if at + int(size) > len(package):
            raise Malformed("truncated Debian package", field=name)
        if name == wanted:
            return package[at : at + int(size)]
        found.append(name)
        at += int(size) + int(size) % 2
    raise Malformed(f"a Debian package without {wanted}", found=", ".join(found))


def _entries(tar: tarfile.TarFile) -> dict[str, Entry]:
    result: dict[str, Entry] = {}
    left = MAX_UNPACKED
    for member in tar:
        path = PurePosixPath(member.name)
        if not path.parts and member.isdir():
            continue  # the root, which each package has
        check_paths([str(path)])
        (member.name + member.linkname).encode()  # fails where the archive's bytes are no text
        if member.issym():
            result[str(path)] = Entry.link(member.linkname)
        elif member.isfile() or member.islnk():
            content = tar.extractfile(member)
            if content is None:
                raise Malformed("a hard link to nothing", field=member.name)
            # Its links may be many, and a sparse file says itself how large it is.
            left -= content.seek(0, io.SEEK_END)
            if left < 0:
                raise Malformed(
                    "the files of a Debian package are too large",
                    field=member.name,
                    expected=f"at most {MAX_UNPACKED} bytes",
                )
            content.seek(0)
            result[str(path)] = Entry.file(content.read(), executable=bool(member.mode & 0o100))
        elif not member.isdir():
            raise Malformed("neither file, link nor directory", field=member.name)
    return result
