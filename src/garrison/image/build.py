"""Builds an image: the same inputs give the same bytes, on any day and in any folder.

Rules: an image appears under its name when it is whole, and not before; one that was built from
the same inputs is not built again. It reads no clock, no environment but where the cache is, and
nothing of this machine's programs.

It refuses to put an image in the place of anything but an image or an empty folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import garrison
from garrison.errors import Malformed, Misuse
from garrison.image import bom, cpio, elf, folder
from garrison.image.contents import Stage
from garrison.image.fetch import MIRROR, Inputs, Progress
from garrison.image.folder import Image, cache, load, part
from garrison.image.lock import LOCK, Lock, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager


#: The module whose `main` runs in the image, where no other is named.
ENTRY = "garrison.guest.__main__"
#: What the kernel starts for itself and no keep uses, by the name of its function: names for its
#: tracing (which nothing here turns on), a source of randomness for its cryptographic interface
#: (its own, which programs are given, is another), a keyboard. An emulated machine is busy with
#: these for half a second. A kernel that has no such function leaves out nothing.
_LEFT_OUT = (
    "trace_eval_init",
    "ftrace_check_for_weak_functions",
    "jent_mod_init",
    "i8042_init",
)
#: The first serial port is the console; a crash ends the machine at once, and does not repeat. The
#: kernel's tests of its own cryptography take an emulated machine a second.
COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 no_timer_check cryptomgr.notests"
    f" initcall_blacklist={','.join(_LEFT_OUT)}"
)
# Of LZ4's 12; what unpacks it is as fast with each.
_LEVEL = 12
_BUILDING = ".building-"
# Builds that begin at once can take a folder of another, in the moment before that claims it.
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an image is built from.

    Attributes:
        lock: the inputs from elsewhere.
        sources: Garrison's modules, by path below a folder, with their text.
        entry: the module whose `main` runs in the image.
        command_line: of the kernel.
    """

    lock: Lock
    sources: Mapping[str, bytes]
    entry: str = ENTRY
    command_line: str = COMMAND_LINE

    @classmethod
    def of_this_release(cls, inputs: Path = LOCK) -> Recipe:
        """The recipe of Garrison as it is installed here.

        Raises:
            Malformed: the lock is none.
        """
        package = Path(garrison.__file__).parent
        sources = {
            path.relative_to(package.parent).as_posix(): path.read_bytes()
            for path in sorted(package.rglob("*.py"))
        }
        return cls(read(inputs), sources)

    @property
    def digest(self) -> str:
        """The digest of all that makes a difference, as `image.json` has it."""
        whole = hashlib.sha256()
        words = (self.lock.digest, self.entry, self.command_line, str(_LEVEL))
        for word in words:
            whole.update(hashlib.sha256(word.encode()).digest())
        for path, text in sorted(self.sources.items()):
            whole.update(hashlib.sha256(path.encode()).digest())
            whole.update(hashlib.sha256(text).digest())
        return f"sha256:{whole.hexdigest()}"


def default_folder(recipe: Recipe | None = None) -> Path:
    """Where the image of this release lies, once it is built."""
    digest = (recipe or Recipe.of_this_release()).digest
    return cache() / digest.partition(":")[2][:32]


def build(
    recipe: Recipe,
    output: Path,
    *,
    inputs: Path | None = None,
    mirror: str = MIRROR,
    say: Callable[[str], None] = lambda _text: None,
    progress: Callable[[str, int], AbstractContextManager[Progress]] | None = None,
) -> Image:
    """Build an image, unless it is there.

    Args:
        recipe: what from.
        output: the folder to make.
        inputs: where inputs are kept; None: in the user's cache.
        mirror: where Debian's packages come from.
        say: told what is done.
        progress: told how much is fetched.

    Raises:
        Misuse: there is something else at `output`, or this machine cannot build.
        Malformed: the inputs do not fit each other.
        Unavailable: an input cannot be fetched.
        Unverified: an input is not what the lock names.
        OSError: the disk is full, or does not take it for another reason.
    """
    found = _present(output)
    if found is not None and found.inputs == recipe.digest:
        found.check()
        say("built before")
        return found
    if len(recipe.command_line) > folder.MAX_COMMAND_LINE:
        raise Misuse(
            "too long for the kernel",
            field="command line",
            found=f"{len(recipe.command_line)} characters",
            expected=f"at most {folder.MAX_COMMAND_LINE}",
        )
    kept = inputs or cache() / "inputs"
    with _named(kept):
        _fetch(recipe.lock, Inputs(kept), mirror, say, progress)
    with _named(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        _sweep(output.parent)
        with _workplace(output.parent) as work:
            made = work / "image"
            made.mkdir(mode=0o755)
            made.chmod(0o755)
            _make(recipe, Inputs(kept), work, made, say)
            _publish(made, output)
    return load(output)


@contextmanager
def _workplace(beside: Path) -> Iterator[Path]:
    """A folder beside the result, so that it can take its name; gone whatever happens.

    Raises:
        OSError: it cannot be made.
    """
    attempts = _ATTEMPTS
    while True:
        attempts -= 1
        with ExitStack() as stack:
            made = tempfile.TemporaryDirectory(dir=beside, prefix=_BUILDING)
            work = Path(stack.enter_context(made))
            try:
                stack.enter_context(_claimed(work))
            except OSError:
                if not attempts:
                    raise
                continue
            # Another build may have taken it for one that was left, in the moment before.
            if work.exists() or not attempts:
                yield work
                return


def _sweep(place: Path) -> None:
    """Remove what builds left that were killed: no living one claims it."""
    for each in place.glob(f"{_BUILDING}*"):
        try:
            with _claimed(each):
                shutil.rmtree(each)
        except OSError:
            continue  # a build that goes on meanwhile, or is not ours


@contextmanager
def _claimed(work: Path) -> Iterator[None]:
    """Claim a folder until the end of this process at the latest.

    Raises:
        OSError: another process does, or it is not ours.
    """
    descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say where it was that the disk is full: a file that is open already has no name."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _fetch(
    lock: Lock,
    kept: Inputs,
    mirror: str,
    say: Callable[[str], None],
    progress: Callable[[str, int], AbstractContextManager[Progress]] | None,
) -> None:
    missing = kept.missing((*lock.packages, *lock.wheels))
    if not missing:
        return
    say(f"fetching {len(missing)} packages")
    if progress is None:
        kept.fetch(lock, mirror, lambda _count: None)
        return
    with progress("fetching", sum(each.size for each in missing)) as count:
        kept.fetch(lock, mirror, count)


def _present(output: Path) -> Image | None:
    """The image that is there; None if there is nothing."""
    try:
        names = [each.name for each in output.iterdir()]
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise Misuse("there is something else", field=str(output), expected="a folder") from error
    if not names:
        return None
    try:
        return load(output)
    except (Misuse, Malformed) as error:
        raise Misuse(
            "there is something else",
            field=str(output),
            found=", ".join(sorted(names)[:5]),
            expected="an image, or nothing",
        ) from error


def _make(
    recipe: Recipe, inputs: Inputs, work: Path, made: Path, say: Callable[[str], None]
) -> None:
    say("unpacking")
    stage_folder = work / "stage"
    stage_folder.mkdir()
    stage = Stage(stage_folder, recipe.lock, inputs, recipe.sources)
    contents = stage.contents(recipe.entry, say)
    say("packing")
    archive = cpio.archive(contents.tree)
    plain = work / "initrd"
    plain.write_bytes(archive)
    task = {"source": str(plain), "target": str(made / folder.INITRD), "level": _LEVEL}
    stage.run("squeeze.py", task)
    (made / folder.KERNEL).write_bytes(contents.kernel)
    unpacked = work / "vmlinux"
    stage.run("unpack.py", {"source": str(made / folder.KERNEL), "target": str(unpacked)})
    # Behind its segments stands what moves it to a random place, which only vmlinuz does.
    (made / folder.UNPACKED).write_bytes(elf.strip(unpacked.read_bytes()))
    (made / folder.COMMAND_LINE).write_text(recipe.command_line)
    (made / folder.STUB).write_bytes(contents.stub)
    for tee, firmware in contents.firmware.items():
        (made / folder.FIRMWARE[tee]).write_bytes(firmware)
    names = [folder.KERNEL, folder.INITRD, folder.COMMAND_LINE, folder.STUB, folder.UNPACKED]
    names += [folder.FIRMWARE[tee] for tee in contents.firmware]
    parts = {name: part(made / name) for name in names}
    whole = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    about = {
        "format": folder.FORMAT,
        "digest": f"sha256:{whole}",
        "inputs": recipe.digest,
        "parts": parts,
        "sizes": {name: (made / name).stat().st_size for name in names},
        "unpacked": len(archive),
        "garrison": garrison.__version__,
        "suite": recipe.lock.suite,
        "source_date_epoch": recipe.lock.source_date_epoch,
        "packages": bom.packages(recipe.lock, contents),
    }
    (made / folder.ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    (made / folder.SBOM).write_text(json.dumps(bom.spdx(recipe.lock, about), indent=1) + "\n")
    for path in made.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _publish(made: Path, output: Path) -> None:
    """Give the image its name; an older one goes."""
    try:
        made.rename(output)
    except OSError:
        # There is an older image, which `_present` saw: a folder takes the place of an empty one.
        old = made.with_name("old")
        output.rename(old)
        made.rename(output)
        shutil.rmtree(old)
