"""What goes into an image: from packages and wheels, the files that a keep needs.

Rules: a Python module is in the image if an import statement reaches it from what the keep runs;
a shared library, if something in the image is linked with it; a kernel module, if it is named here
or one such depends on it. All else is named here, file by file. The suite's Python and loader, out
of the locked packages, answer both questions, so the result does not depend on the machine that
builds.

It refuses to build elsewhere than on Linux on x86-64, where they run.
"""

from __future__ import annotations

import io
import json
import platform
import re
import stat
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from garrison.errors import Malformed, Misuse, Unavailable
from garrison.image import cpio, deb, elf, init, modules
from garrison.image.cpio import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from garrison.image.fetch import Inputs
    from garrison.image.lock import Lock

PYTHON = "usr/bin/python3.13"
_LIBRARY = "usr/lib/python3.13"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
_MODULES = "usr/lib/modules"
_KERNEL = "linux-image-"
_STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_FIRMWARE = {
    "snp": "usr/share/ovmf/OVMF.amdsev.fd",
    "tdx": "usr/share/ovmf/OVMF.inteltdx.ms.fd",
}
_WHEELS = "wheels"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What reading a broken one raises; a RuntimeError is one that is encrypted.
_NO_WHEEL = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError)
_SOURCES = "sources"
_GARRISON = "garrison"

# `-m` would import 20 modules to find this one.
_INIT = f"""#!/{PYTHON} -ISB
from {init.__name__} import main
main()
"""

# With what for. Their dependencies come by themselves.
DEVICE_MODULES = {
    "virtio_rng": "randomness of the host's, beside the processor's",
    "virtio_net": "the network",
}
# Besides, on a machine that is confidential.
EVIDENCE_MODULES = {
    "configfs": "evidence: where the next three are asked",
    "tsm": "evidence: what the next two answer through",
    "sev_guest": "evidence of SEV-SNP",
    "tdx_guest": "evidence of TDX",
}
# Instead, on a machine without PCI, as a Nitro enclave is.
ENCLAVE_MODULES = {
    "virtio_mmio": "the way to the next two",
    "vmw_vsock_virtio_transport": "the way to the parent instance",
    "tun": "the network, which the parent instance carries over that way",
    "nsm": "evidence of Nitro",
}

# Imported by name at run time, from C or from Rust.
_DYNAMIC = ("cryptography", "httptools", "garrison.keep", "garrison.attesters")
_ROOTS = (
    init.__name__,
    "_cffi_backend",
    "_strptime",
    "encodings.ascii",
    "encodings.charmap",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.utf_8",
)
# The host simulates for a machine: what forges evidence is in no image.
_SIMULATORS = re.compile(r"garrison\.attesters\.(?!host_).*_insecure")
# Reached by statements that never run in a keep.
_WITHOUT = (
    "garrison.attesters.simulated_insecure",
    # a keep verifies no evidence, and no request
    "awscrt",
    # for people at a terminal
    "_pyrepl", "argparse", "bdb", "cmd", "code", "codeop", "curses", "getpass", "gettext", "pdb",
    "pydoc", "pydoc_data", "readline", "rlcompleter", "tkinter", "webbrowser",
    # tests
    "doctest", "test", "unittest", "_testcapi", "_testinternalcapi", "_testlimitedcapi",
    # what the C modules of Python do
    "_py_abc", "_pydatetime", "_pydecimal", "_pyio",
    # other ways to do many things at once
    "asyncio", "concurrent.futures.process", "concurrent.futures.interpreter", "multiprocessing",
    # formats and protocols that a keep does not speak
    "bz2", "ftplib", "html", "lzma", "netrc", "plistlib", "smtplib", "tarfile",
    "xml", "xmlrpc", "http.server", "http.cookiejar", "socketserver",
    "statistics", "decimal", "fractions", "pickle", "csv", "_uuid",
    # other systems
    "_aix_support", "_ios_support", "_osx_support", "ctypes.macholib", "nturl2path",
    "urllib3.contrib.emscripten", "urllib3.contrib.socks",
)  # fmt: skip
# Of wheels: what is read, not imported.
_DATA = {
    "certifi": ("certifi/cacert.pem",),
    "wasmtime": (
        "wasmtime/linux-x86_64/_libwasmtime.so",
        "wasmtime-{version}.dist-info/METADATA",
    ),
}
# The loader's name is in every program; what a keep writes, its guest part puts in /run.
_LINKS = {
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "etc/hosts": "/run/hosts",
    "etc/resolv.conf": "/run/resolv.conf",
}
_PLACES = ("dev", "proc", "run", "sys", "tmp")


@dataclass(slots=True)
class Contents:
    """An image before it is packed.

    Attributes:
        kernel: what boots.
        stub: what boots it under UEFI.
        firmware: of a machine that is measured, by its TEE.
        tree: the initial file system.
        origins: where each of its files is from: the name of an input, or `garrison`.
        beside: what is from an input and not in the file system.
    """

    kernel: bytes = b""
    stub: bytes = b""
    firmware: dict[str, bytes] = field(default_factory=dict)
    tree: dict[str, Entry] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    beside: dict[str, bytes] = field(default_factory=dict)

    def add(self, path: str, entry: Entry, origin: str) -> None:
        """Put something at a path; of a program, what is loaded."""
        if entry.content.startswith(elf.MAGIC) and not path.startswith(_MODULES):
            entry = Entry(entry.mode, elf.strip(entry.content))
        self.tree[path] = entry
        self.origins[path] = origin


class Stage:
    """A folder in which the inputs are unpacked, and their programs run."""

    def __init__(
        self, folder: Path, lock: Lock, inputs: Inputs, sources: Mapping[str, bytes]
    ) -> None:
        """Unpack the inputs.

        Args:
            folder: empty, and gone with its contents when the image is built.
            lock: what there is.
            inputs: where it is.
            sources: Garrison's modules, by path, and the entry if it is not one of them.

        Raises:
            Malformed: one of them is no package or no wheel.
            Misuse: this machine cannot run them.
        """
        machine = sys.platform, platform.machine()
        if machine != ("linux", "x86_64"):
            raise Misuse(
                "an image cannot be built on this machine",
                found=" on ".join(machine),
                expected="linux on x86_64",
            )
        self._folder = folder
        self._versions = {each.name: each.version for each in lock.wheels}
        self._owners: dict[str, str] = {}
        self.kernel: dict[str, Entry] = {}
        self.kernel_package = ""
        for item in lock.packages:
            files = deb.files(inputs.read(item))
            if item.name.startswith(_KERNEL):
                self.kernel, self.kernel_package = files, item.name
            else:
                self._unpack(files, item.name)
        for item in lock.wheels:
            self._unpack(wheel(inputs.read(item), item.path), item.name)
        files = {f"{_SOURCES}/{path}": Entry.file(text) for path, text in sources.items()}
        self._unpack(files, _GARRISON)

    def contents(self, entry: str, say: Callable[[str], None]) -> Contents:
        """Choose what a keep needs.

        Args:
            entry: the module whose `main` the image calls.
            say: told what is done.
        """
        result = Contents(_kernel(self.kernel), self._path(_STUB).read_bytes())
        result.firmware = {tee: self._path(path).read_bytes() for tee, path in _FIRMWARE.items()}
        result.beside = {self.kernel_package: result.kernel, self._owners[_STUB]: result.stub}
        for tee, path in _FIRMWARE.items():
            result.beside[self._owners[path]] = result.firmware[tee]
        say("kernel modules")
        for names, path in (
            (DEVICE_MODULES, init.DEVICE_MODULES),
            (EVIDENCE_MODULES, init.EVIDENCE_MODULES),
            (ENCLAVE_MODULES, init.ENCLAVE_MODULES),
        ):
            loaded = modules.ordered(self.kernel, names)
            for name, content in loaded.items():
                result.add(f"{_MODULES}/{name}.ko", Entry.file(content), self.kernel_package)
            listed = "".join(f"/{_MODULES}/{name}.ko\n" for name in loaded)
            result.add(path.lstrip("/"), Entry.file(listed.encode()), _GARRISON)
        result.add(init.ENTRY.lstrip("/"), Entry.file(f"{entry}\n".encode()), _GARRISON)
        say("Python modules")
        self._add_python(result, entry)
        say("shared libraries")
        self._add_libraries(result)
        result.add("init", Entry.file(_INIT.encode(), executable=True), _GARRISON)
        for path, target in _LINKS.items():
            result.add(path, Entry.link(target), _GARRISON)
        for path in _PLACES:
            result.add(path, Entry.directory(), _GARRISON)
        return result

    def run(self, script: str, request: object) -> bytes:
        """Run a script beside this module by the suite's Python, with nothing of this machine's.

        Raises:
            Malformed: it failed; the inputs do not fit each other.
            Unavailable: it cannot be started.
        """
        done = self._loaded(
            self._path(PYTHON),
            # -I would make hashes random again.
            *("-s", "-S", "-P", "-B", Path(__file__).with_name(script)),
            given=json.dumps(request).encode(),
        )
        if done.returncode:
            raise Malformed(
                "the Python of the inputs failed",
                field=script,
                found=done.stderr.decode(errors="replace").strip()[-1000:],
            )
        return done.stdout

    def _add_python(self, result: Contents, entry: str) -> None:
        own = [self._path(_SOURCES), self._path(_WHEELS)]
        library = self._path(_LIBRARY)
        places = [*own, library, library / "lib-dynload"]
        roots = {*_ROOTS, entry}
        for name in _DYNAMIC:
            roots.update(each for each in _modules_of(name, own) if not _SIMULATORS.fullmatch(each))
        out = self._folder / "compiled"
        found = json.loads(
            self.run(
                "freeze.py",
                {
                    "path": [str(each) for each in places],
                    "roots": sorted(roots),
                    "without": _WITHOUT,
                    "out": str(out),
                },
            )
        )
        for path, source in found["modules"].items():
            content = (out / path).read_bytes()
            target = f"{_LIBRARY}/{path}"
            within = Path(source).relative_to(self._folder).as_posix()
            # Python looks for those of its own in a folder of theirs.
            if "/lib-dynload/" in within:
                target = within
            result.add(target, Entry.file(content), self._owners[within])
        for name, paths in _DATA.items():
            for path in paths:
                plain = path.format(version=self._versions[name])
                content = self._path(f"{_WHEELS}/{plain}").read_bytes()
                result.add(f"{_LIBRARY}/{plain}", Entry.file(content), name)

    def _add_libraries(self, result: Contents) -> None:
        python = self._path(PYTHON).read_bytes()
        result.add(PYTHON, Entry.file(python, executable=True), self._owners[PYTHON])
        linked = self._folder / "linked"
        needed = set()
        for path, entry in sorted(result.tree.items()):
            if not entry.content.startswith(elf.MAGIC) or path.startswith(_MODULES):
                continue
            linked.write_bytes(entry.content)
            needed |= self._needed(linked, path)
        for name in sorted({*needed, _LOADER}):
            content = self._path(name).read_bytes()
            owner = self._owner(name)
            result.add(name, Entry.file(content, executable=name == _LOADER), owner)

    def _needed(self, program: Path, name: str) -> set[str]:
        """The libraries, of ours, that the loader would load for a program."""
        done = self._loaded("--list", program)
        if done.returncode:
            raise Malformed(
                "the loader of the inputs failed",
                field=name,
                found=done.stderr.decode(errors="replace").strip(),
            )
        found = set()
        for line in done.stdout.decode().splitlines():
            soname, arrow, rest = line.strip().partition(" => ")
            place = self._folder / (rest if arrow else soname).rpartition(" (")[0]
            if soname.startswith("linux-vdso"):
                continue
            if not place.is_relative_to(self._folder):
                raise Malformed(
                    "linked with a library that no input has",
                    field=name,
                    found=soname,
                    hint="add the package that has it to tools/image_lock.py",
                )
            found.add(place.relative_to(self._folder).as_posix())
        return found

    def _loaded(
        self, *command: str | Path, given: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        loader = self._path(_LOADER)
        # Relative, to the folder in which it runs: a colon in that folder's name would end the
        # path, and the loader would go on with this machine's libraries.
        try:
            return subprocess.run(
                [loader, "--inhibit-cache", "--library-path", _LIBRARIES, *command],
                check=False,
                capture_output=True,
                input=given,
                env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
                cwd=self._folder,
            )
        except OSError as error:
            raise Unavailable(
                "the programs of the inputs do not start here", field=loader.name, found=error
            ) from error

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _owner(self, name: str) -> str:
        """The input that a path is of, through links."""
        real = self._path(name).resolve().relative_to(self._folder.resolve()).as_posix()
        return self._owners[real]

    def _unpack(self, files: dict[str, Entry], owner: str) -> None:
        for path, entry in files.items():
            place = self._path(path)
            # Another input's link would lead out of the folder.
            parents = list(place.parents)
            above = parents[: parents.index(self._folder)]
            linked = [each for each in above if each.is_symlink() or each.is_file()]
            if linked or place.is_symlink() or place.exists():
                raise Malformed(
                    "an input writes where another one did",
                    field=f"{owner}: {path}",
                    found=(linked or [place])[0].relative_to(self._folder),
                )
            place.parent.mkdir(parents=True, exist_ok=True)
            if stat.S_ISLNK(entry.mode):
                place.symlink_to(entry.content.decode())
            else:
                place.write_bytes(entry.content)
                place.chmod(entry.mode & 0o700 | 0o400)
            self._owners[path] = owner


def _kernel(files: dict[str, Entry]) -> bytes:
    kernels = [path for path in files if path.startswith("boot/vmlinuz-")]
    if len(kernels) != 1:
        raise Malformed(
            "the inputs have no one kernel", found=", ".join(kernels), expected="boot/vmlinuz-*"
        )
    return files[kernels[0]].content


def wheel(content: bytes, name: str) -> dict[str, Entry]:
    """The files of a wheel, below a folder that no package has.

    Raises:
        Malformed: it is none, or larger than any of ours.
    """
    files = {}
    left = deb.MAX_UNPACKED
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for each in archive.infolist():
                if each.filename.endswith("/"):
                    continue
                left -= each.file_size
                unnamed = not each.filename  # of which the library raises what is no error of it
                if left < 0 or unnamed or each.compress_type not in _COMPRESSIONS:
                    raise Malformed(
                        "this is no wheel of ours",
                        field=f"{name}: {each.filename}",
                        found=f"{each.file_size} bytes, compression {each.compress_type}",
                        expected=f"at most {deb.MAX_UNPACKED} bytes in all, deflated or stored",
                    )
                with archive.open(each) as file:
                    # So many and no more, whatever its compressed data make.
                    files[f"{_WHEELS}/{each.filename}"] = Entry.file(file.read(each.file_size))
    except _NO_WHEEL as error:
        raise Malformed("this is no wheel", field=name, found=error) from error
    cpio.check_paths(files)
    return files


def _modules_of(package: str, places: Iterable[Path]) -> list[str]:
    """All modules of a package."""
    found = []
    for place in places:
        for file in (place / package.replace(".", "/")).rglob("*.py"):
            parts = file.relative_to(place).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found
