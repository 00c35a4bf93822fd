"""What a workload may take: what it says, and what the host and the tenant say of it."""

from __future__ import annotations

from garrison.formats.deployment_policy import DeploymentPolicy
from garrison.formats.enarx_toml import Config
from garrison.keep.workload import limits_of

_CONFIG = Config(limits={"silence_seconds": 60, "memory": 1 << 20})


def test_the_host_cannot_loosen_what_a_certified_workload_says() -> None:
    """Attack: a package bounds the steward's silence, and the host starts it without that."""
    looser = {"silence_seconds": 86400, "memory": 1 << 30, "run_seconds": 5, "tmp": 1 << 40}
    found = limits_of(_CONFIG, looser, None, certified=True)
    assert (found.silence_seconds, found.memory) == (60, 1 << 20)
    # What it does not say is bounded as before.
    assert (found.run_seconds, found.tmp) == (5, 256 << 20)
    tighter = limits_of(_CONFIG, {"silence_seconds": 20}, None, certified=True)
    assert tighter.silence_seconds == 20


def test_what_nobody_certifies_is_as_who_runs_it_says() -> None:
    found = limits_of(_CONFIG, {"memory": 1 << 30}, None, certified=False)
    assert (found.silence_seconds, found.memory) == (60, 1 << 30)


def test_the_tenant_narrows_all_of_it() -> None:
    tenant = DeploymentPolicy.from_bytes(b"[limits]\nsilence_seconds = 30\nmemory = 65536\n")
    for certified in (True, False):
        found = limits_of(_CONFIG, {"silence_seconds": 40}, tenant, certified=certified)
        assert (found.silence_seconds, found.memory) == (30, 1 << 16)
