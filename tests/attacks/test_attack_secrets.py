"""Property: what is private is read by nobody else, and nothing secret is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.attacks.conftest import OTHER_MEASUREMENT

from garrison.errors import Rejected
from garrison.formats.slug import Slug

if TYPE_CHECKING:
    from tests.attacks.conftest import Attack

pytestmark = [pytest.mark.xdist_group("attacks")]

SECRET = "secret:1.0.0"

# Private workloads.


def test_an_attested_keep_reads_it(attack: Attack) -> None:
    """What every refused reader here would see if it were let in."""
    done = attack.run(attack.request(SECRET))
    assert (done.returncode, done.stdout) == (7, "the workload ran\n"), done.stderr
    files = attack.drawbridge(attack.certified()).fetch(Slug.parse(attack.stack.slug(SECRET)))
    assert files.files["SECRET"] == b"the recipe\n"


def test_nobody_reads_it(attack: Attack, tmp_path: Path) -> None:
    """Somebody without a token or a certificate asks for a private workload, and for its tag."""
    home = {**attack.stack.environment, "HOME": str(tmp_path)}
    done = attack.stack.run(
        "package", "fetch", *attack.stack.registry_options,
        attack.stack.slug(SECRET), str(tmp_path / "stolen"), environment=home,
    )  # fmt: skip
    assert done.returncode == 77
    assert "401" in done.stderr
    assert not (tmp_path / "stolen").exists()
    with pytest.raises(Rejected, match="401"):
        attack.drawbridge().tag(Slug.parse(attack.stack.slug(SECRET)))


def test_another_user_reads_nothing(attack: Attack, tmp_path: Path) -> None:
    """Another user, who is logged in, asks for a private workload, and puts a tag beside it."""
    stack = attack.stack
    home = {**stack.environment, "HOME": str(tmp_path)}
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "main.wasm").write_bytes(attack.wasm)
    secret = stack.directory / "drawbridge" / "insecure-oidc-secret"
    done = stack.run(
        "user", "login", *stack.registry_options, "--oidc-client-id", "mallory",
        "--oidc-domain", f"https://{stack.registry}/insecure-oidc/",
        "--oidc-secret-file", str(secret), stack.registry, environment=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for arguments in (
        ["package", "fetch", *stack.registry_options, stack.slug(SECRET), str(tmp_path / "stolen")],
        ["package", "info", *stack.registry_options, stack.slug(SECRET)],
        ["repo", "info", *stack.registry_options, f"{stack.registry}/demo/secret"],
        [
            "package", "publish", *stack.registry_options,
            str(tmp_path / "package"), stack.slug("secret:6.6.6"),
        ],
    ):  # fmt: skip
        done = stack.run(*arguments, environment=home)
        assert done.returncode == 77, done.stderr
        assert "401" in done.stderr
        assert done.stdout == ""
    assert not (tmp_path / "stolen").exists()


def test_a_keep_of_another_measurement_reads_nothing(attack: Attack) -> None:
    """A steward with the same root certified a keep that the repository does not admit."""
    certified = attack.certified(url=attack.second, measurement=OTHER_MEASUREMENT)
    assert certified.identity.workload.measurement.hex() == OTHER_MEASUREMENT
    with pytest.raises(Rejected, match="401"):
        attack.drawbridge(certified).fetch(Slug.parse(attack.stack.slug(SECRET)))


def test_a_keep_of_another_steward_reads_nothing(attack: Attack) -> None:
    """The host's own steward certifies a keep: the drawbridge ends the connection."""
    own = attack.stack.directory / "thiefs-steward"
    attack.stack.command("steward", "init", str(own), "--trust-domain", "demo.test")
    url = attack.start_steward(own, attack.stack.policy())
    root = (own / "root.pem").read_text()
    done = attack.run(attack.request(SECRET, steward=url, steward_roots=root))
    assert done.returncode != 0
    assert "certificate" in done.stderr
    assert done.stdout == ""


# Secrets.


def test_no_token_and_no_key_is_told(attack: Attack) -> None:
    """Tokens and keys are used, rightly and wrongly; no process's output has one of them."""
    stack = attack.stack
    token = attack.token()
    secret = (stack.directory / "drawbridge" / "insecure-oidc-secret").read_text().strip()
    outputs = []
    for name, used in (
        ("secret:1.0.0", token),
        ("secret:9.9.9", token),
        ("plain:1.0.0", "x" + token),
    ):
        done = stack.run(
            "package", "info", *stack.registry_options, stack.slug(name),
            environment={**stack.environment, "GARRISON_INSECURE_AUTH_TOKEN": used},
        )  # fmt: skip
        outputs.append(done.stdout + done.stderr)
    keep = attack.run(attack.request(SECRET))
    outputs += [keep.stdout + keep.stderr]
    outputs += ["\n".join(process.lines) for process in stack.processes]
    assert any("secret" in output for output in outputs)
    for output in outputs:
        for hidden in (token, token.rpartition(".")[2], secret, "PRIVATE KEY"):
            assert hidden not in output


def test_a_keep_writes_no_file(attack: Attack) -> None:
    """While a keep runs, with its key and its workload, the host's disk has nothing new of it."""
    folder = attack.stack.directory
    before = set(folder.rglob("*"))
    process = attack.start("a keep", attack.request("open:1.0.0"))
    process.expect("listening")
    descriptors = Path(f"/proc/{process.pid}/fd").iterdir()
    opened = [str(descriptor.readlink()) for descriptor in descriptors]
    process.stop()
    assert set(folder.rglob("*")) == before
    # Pipes and sockets have no path, and a memfd is memory; a file that is held open has one.
    files = [path for path in opened if path.startswith("/")]
    assert [path for path in files if not path.startswith(("/dev/", "/memfd:"))] == []
