"""The demonstration, end to end: publish, deploy, attest, converse, refuse.

With the name of a backend, `nil` or `kvm`, keeps run in it: `make demo BACKEND=kvm`. With machines
the policy has the measurement that is predicted for the keep image, before anything has booted;
what runs while things change (steps 8 to 10) is shown with processes only.

Every step is done by Garrison's own commands, in processes of their own, over real sockets.
Nothing is left running, and nothing is left on disk. Exit code 0 means that every step was
seen to work; 1 that one was not, and says which and why.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from garrison import __version__
from garrison.errors import GarrisonError
from garrison.image.build import Recipe, default_folder
from garrison.image.build import build as build_image
from garrison.image.folder import KERNEL, load
from garrison.launch.qemu_command import QEMU
from garrison.terminal import paint
from garrison.testing.stack import Process, Stack, StackError, free_port

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "chat"), str(HERE / "network")]
from build import build  # type: ignore[import-not-found]  # noqa: E402  (beside this file)
from steps import in_motion  # type: ignore[import-not-found]  # noqa: E402  (likewise)
from transcript import (  # type: ignore[import-not-found]  # noqa: E402  (likewise)
    StepError,
    Transcript,
    error_of,
    require,
    said,
)

if TYPE_CHECKING:
    from types import FrameType

CHAT = HERE / "chat"


def openssl(*arguments: str, stdin: str = "") -> str:
    """Run `openssl` and return all that it prints."""
    done = subprocess.run(
        ["openssl", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=30,
        check=False,
    )
    return done.stdout + done.stderr


def served(stack: Stack, path: str) -> bytes:
    """GET `path` of the drawbridge as any HTTP client would, with the user's token."""
    import urllib3

    context = ssl.create_default_context(cafile=str(stack.registry_ca))
    tokens = json.loads((stack.directory / "home/.config/garrison/tokens.json").read_text())
    with urllib3.PoolManager(ssl_context=context) as pool:
        response = pool.request(
            "GET",
            f"https://{stack.registry}/api/v0.1.0/{path}",
            headers={"Authorization": f"Bearer {_token(tokens, stack.registry)}"},
        )
        require(response.status == 200, f"GET {path} answered {response.status}")
        return response.data


def _token(tokens: dict[str, Any], registry: str) -> str:
    entry = tokens[registry]
    return str(entry if isinstance(entry, str) else entry["token"])


def sha256sum(data: bytes, directory: Path) -> str:
    """What the `sha256sum` command prints of `data`, hex."""
    file = directory / "served"
    file.write_bytes(data)
    done = subprocess.run(
        ["sha256sum", str(file)], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.split()[0]


def demonstrate(show: Transcript, directory: Path, image: Path | None) -> None:
    """All steps, in order."""
    chat_port = free_port()
    with Stack(directory / "stack", image, denied="poll_seconds = 1") as stack:
        with show.step("1. The environment"):
            show.fact(f"garrison {__version__}, Python {sys.version.split()[0]}")
            show.fact(openssl("version").strip())
            if image is not None:
                show.fact(f"keeps are machines: {qemu_version()}; image {load(image).digest}")

        with show.step("2. A drawbridge and a steward, over TLS, on free ports"):
            stack.start_services()
            show.fact(f"drawbridge https://{stack.registry}   steward {stack.steward_url}")
            show.fact("vendor     INSECURE simulated SNP root “demo”, named in the policy")
            show.fact(f"policy     admits launch measurement {stack.measurement[:32]}…")

        with show.step("3. Chat server and client, built from C to WebAssembly"):
            packages = build_packages(stack, directory, chat_port)
            for name, package in packages.items():
                size = (package / "main.wasm").stat().st_size
                show.fact(f"{name}: main.wasm {size:,} bytes, Enarx.toml")

        with show.step("4. Publish: tags, trees, digests"):
            digests = publish(show, stack, packages, directory)

        with show.step("5. Deploy: attest, certify, fetch over mutual TLS, check, certify, run"):
            server, alice, bob, alice_sees, bob_sees = deploy(show, stack)

        with show.step("6. Each side names the other, and they talk over TLS 1.3"):
            server_name = f"{stack.slug('chat-server:0.1.0')}@{digests['chat-server']}"
            client_name = f"{stack.slug('chat-client:0.1.0')}@{digests['chat-client']}"
            require(server_name in alice_sees, f"Alice sees {alice_sees!r}, not {server_name}")
            require(server_name in bob_sees, f"Bob sees {bob_sees!r}, not {server_name}")
            joined = server.expect(client_name)
            show.fact(f"clients see   {server_name}")
            show.fact(f"server sees   {joined[joined.index(stack.registry) :]}")
            converse(show, alice, bob)
            chain(show, stack, server, chat_port)

        with show.step("7. What is refused"):
            refusals(show, stack, server, packages, directory, chat_port)

        if image is None:
            in_motion(show, stack, directory)
        else:
            with show.step("8. A keep image with one byte changed"):
                changed_image(show, stack, directory, image)

        with show.step("11. The end" if image is None else "9. The end"):
            leave(show, {"Alice": alice, "Bob": bob}, server)

    left = leftovers(directory)
    require(not left, f"still running: {left}")
    print(f"{paint('✔', 'green', sys.stdout)} nothing is left running")


def build_packages(stack: Stack, directory: Path, port: int) -> dict[str, Path]:
    """Build the packages; each names, in its `Enarx.toml`, exactly whom it talks to."""
    packages = {name: directory / "packages" / name for name in ("chat-server", "chat-client")}
    build(
        CHAT / "server",
        packages["chat-server"],
        {"PORT": str(port), "PEERS": json.dumps([stack.slug("chat-client:0.1.0")])},
    )
    build(
        CHAT / "client",
        packages["chat-client"],
        {"PORT": str(port), "PEERS": json.dumps([stack.slug("chat-server:0.1.0")])},
    )
    return packages


def publish(
    show: Transcript, stack: Stack, packages: dict[str, Path], directory: Path
) -> dict[str, str]:
    """Publish both, private: readable by their owner, and by keeps that run this very Garrison."""
    stack.login()
    digests = {}
    for name, package in packages.items():
        stack.register_repo(name, "--private", "--keep", f"tee=snp,measurement={stack.measurement}")
        told = stack.publish(package, f"{name}:0.1.0")
        digests[name] = str(told["digest"])
        show.fact(f"{stack.slug(name)}:0.1.0   digest {digests[name]}")
        tag = f"demo/{name}/_tag/0.1.0"
        entry = json.loads(served(stack, tag))
        tree = served(stack, f"{tag}/tree")
        wanted = {"tree": (tree, entry)}
        for file, of_file in json.loads(tree).items():
            wanted[file] = (served(stack, f"{tag}/tree/{file}"), of_file)
        for path, (content, told_of) in wanted.items():
            from base64 import b64decode

            digest = b64decode(told_of["digest"]["sha-256"]).hex()
            require(
                sha256sum(content, directory) == digest,
                f"sha256sum of {name} {path} is not {digest}",
            )
            show.fact(f"  {path:<11} {len(content):>7,} bytes   sha256sum {digest[:32]}… agrees")
        local = stack.command("tree", "digest", str(package)).strip()
        require(local == digests[name], f"tree digest of {package} is {local}")
    return digests


def deploy(show: Transcript, stack: Stack) -> tuple[Process, Process, Process, str, str]:
    """Start the server's keep and those of two clients; what each client sees of the server."""
    server = stack.deploy("chat-server:0.1.0", "the chat server's keep")
    certified = server.expect("certified as spiffe://demo.test/keep/snp")
    show.fact(f"server     {said(certified)}")
    show.fact(f"server     {said(server.expect('every byte checked'))}")
    show.fact(f"server     {said(server.expect('certified as'))}")
    server.expect("listening")
    alice, bob = (stack.deploy("chat-client:0.1.0", f"{name}'s keep") for name in ("Alice", "Bob"))
    alice_sees, bob_sees = (keep.expect("connected to") for keep in (alice, bob))
    pids = ", ".join(str(keep.pid) for keep in (server, alice, bob))
    each = "process" if stack.image is None else "machine"
    show.fact(f"three keeps, a {each} each: {pids}")
    return server, alice, bob, alice_sees, bob_sees


def converse(show: Transcript, alice: Process, bob: Process) -> None:
    """A line each way."""
    # A client's handshake ends before the server's: who was welcomed is there, and hears all.
    for client in (alice, bob):
        client.expect("welcome")
    alice.send("alice")
    bob.send("bob")
    alice.send("Good morning. Nobody but us can read this.")
    show.fact(f"Bob reads     {bob.expect('Good morning')}")
    bob.send("And I know exactly which program you are.")
    show.fact(f"Alice reads   {alice.expect('which program you are')}")


def chain(show: Transcript, stack: Stack, server: Process, port: int) -> None:
    """The server's certificate chain, as a foreign TLS implementation sees and verifies it."""
    seen = openssl(
        "s_client", "-connect", f"localhost:{port}", "-tls1_3", "-showcerts",
        "-CAfile", str(stack.steward_root),
    )  # fmt: skip
    require("Verify return code: 0 (ok)" in seen, f"openssl does not verify the chain:\n{seen}")
    require("TLSv1.3" in seen, "openssl does not see TLS 1.3")
    leaf = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", seen, re.DOTALL)
    require(leaf, "openssl shows no certificate")
    text = openssl("x509", "-noout", "-ext", "subjectAltName", stdin=leaf[0] if leaf else "")
    uri = re.search(r"URI:([^,\s]+)", text)
    require(uri, f"no SPIFFE ID in {text}")
    cipher = re.search(r"Cipher is (\S+)", seen)
    show.fact(f"openssl       TLSv1.3 {cipher[1] if cipher else ''}, Verify return code: 0 (ok)")
    show.fact(f"              {uri[1] if uri else ''}")
    # It has seen the chain, and is refused all the same: step 7 is about that.
    server.expect("anonymous")


def refusals(
    show: Transcript,
    stack: Stack,
    server: Process,
    packages: dict[str, Path],
    directory: Path,
    port: int,
) -> None:
    """What must not work, tried."""
    openssl("s_client", "-connect", f"localhost:{port}", "-tls1_3", stdin="let me in\n")
    show.fact(f"openssl without a certificate: {said(server.expect('anonymous'))}")

    done = stack.run(*stack.deploy_arguments("chat-client:0.1.0", simulate=False), stdin="")
    require(done.returncode == 77, f"a keep without evidence ended with {done.returncode}")
    require("401" in done.stderr, f"not a 401: {done.stderr}")
    show.fact(f"keep without evidence: {error_of(done.stderr)}")

    client = packages["chat-client"]
    done = stack.run(
        "run", "--steward-root", str(stack.steward_root),
        "--wasmcfgfile", str(client / "Enarx.toml"), str(client / "main.wasm"),
        stdin="mallory\nlet me in\n",
    )  # fmt: skip
    require(done.returncode == 1, f"a client without a certificate ended with {done.returncode}")
    require("not let in" in done.stderr, f"not refused by the server: {done.stderr}")
    show.fact(f"  and its client, run all the same: {said(server.expect('anonymous'))}")

    tampered(show, stack, packages, directory)

    stack.publish(client, "chat-client:0.2.0")
    done = stack.run(*stack.deploy_arguments("chat-client:0.2.0"), stdin="mallory\nhello\n")
    require(done.returncode != 0, "a client of another version was let in")
    refusal = server.expect("chat-client:0.2.0")
    show.fact(f"client of another version: {said(refusal)}")


def tampered(show: Transcript, stack: Stack, packages: dict[str, Path], directory: Path) -> None:
    """Change one byte of a `main.wasm` in the registry's storage, under its digest's name."""
    package = directory / "packages" / "tampered"
    shutil.copytree(packages["chat-client"], package)
    # A custom section makes it a file of its own in the content-addressed store.
    wasm = package / "main.wasm"
    wasm.write_bytes(wasm.read_bytes() + b"\x00\x09\x08tampered")
    stack.register_repo("tampered", "--private", "--keep", "tee=snp")
    stack.publish(package, "tampered:0.1.0")
    content = wasm.read_bytes()
    stored = [
        file
        for file in (stack.directory / "drawbridge").rglob("*")
        if file.is_file() and file.stat().st_size == len(content) and file.read_bytes() == content
    ]
    require(len(stored) == 1, f"main.wasm is stored {len(stored)} times")
    stored[0].write_bytes(content[:-1] + b"D")
    done = stack.run(*stack.deploy_arguments("tampered:0.1.0"), stdin="")
    require(done.returncode == 76, f"a tampered workload ended with {done.returncode}")
    show.fact(f"tampered main.wasm: {error_of(done.stderr)}")


def leave(show: Transcript, clients: dict[str, Process], server: Process) -> None:
    """End all keeps."""
    for name, keep in clients.items():
        code = keep.finish()
        require(code == 0, f"{name}'s keep ended with {code}")
    server.stop()
    show.fact("both clients left, exit code 0; the server was told to stop")


def changed_image(show: Transcript, stack: Stack, directory: Path, image: Path) -> None:
    """It boots and does the same; it has another measurement, and so gets no certificate."""
    changed = directory / "changed image"
    shutil.copytree(image, changed)
    kernel = changed / KERNEL
    # A letter of the kernel's address for mail, in its header, which nobody reads.
    before, text, after = kernel.read_bytes().partition(b"debian-kernel@")
    require(text, "the kernel does not have the text that is changed here")
    kernel.write_bytes(before + b"Debian-kernel@" + after)
    measured = stack.command("image", "measure", str(changed), "--tee", "snp").strip()
    require(measured != stack.measurement, "the measurement is the same")
    done = stack.run(*stack.deploy_arguments("chat-client:0.1.0", image=changed), stdin="")
    require(done.returncode == 77, f"a changed image ended with {done.returncode}")
    require(measured in done.stderr, f"not for its measurement: {done.stderr}")
    show.fact(f"measures {measured[:32]}…, not {stack.measurement[:32]}…")
    show.fact(error_of(done.stderr)[:160])


def prepare_image() -> Path:
    """The keep image of this release, built if it is not there.

    Raises:
        StepError: there is no QEMU.
        GarrisonError: it cannot be built.
    """
    if shutil.which(QEMU) is None:
        raise StepError(
            f"{QEMU} is not installed: on Debian, apt-get install qemu-system-x86; on RHEL and"
            " Fedora, dnf install qemu-kvm"
        )
    recipe = Recipe.of_this_release()
    return build_image(recipe, default_folder(recipe), say=lambda text: print(f"  {text}")).folder


def qemu_version() -> str:
    """What QEMU says of itself."""
    done = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def leftovers(directory: Path) -> list[str]:
    """The processes, other than this one, whose command line names `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:  # it ended, or it is another user's
                continue
            if os.fsencode(directory) in command:
                found.append(entry.name)
    return found


def interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    """End by the ordinary way out, so that every process is stopped and the folder removed."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    """Run the demonstration, and return its exit code."""
    signal.signal(signal.SIGTERM, interrupted)
    backend = sys.argv[1] if len(sys.argv) > 1 else "nil"
    if backend not in {"nil", "kvm"} or len(sys.argv) > 2:
        print("usage: demo.py [nil | kvm]", file=sys.stderr)
        return 2
    show = Transcript()
    start = time.monotonic()
    try:
        image = prepare_image() if backend == "kvm" else None
        with tempfile.TemporaryDirectory(prefix="garrison-demo-") as directory:
            demonstrate(show, Path(directory), image)
    except KeyboardInterrupt:
        print(f"\ninterrupted in step “{show.current}”; everything was stopped", file=sys.stderr)
        return 130
    except (StepError, StackError, GarrisonError, OSError, subprocess.SubprocessError) as error:
        print(f"{paint('✗', 'red', sys.stderr)} {show.current}\n{error}", file=sys.stderr)
        return 1
    print(f"done in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
