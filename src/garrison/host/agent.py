"""The agent's HTTP: tenants ask a host to run keeps, and look after them.

    POST   /v1/keeps               a spec (garrison.host.spec); 201 with the keep
    GET    /v1/keeps               the tenant's keeps
    GET    /v1/keeps/ID            one
    DELETE /v1/keeps/ID            end it, and forget it once it has ended
    GET    /v1/keeps/ID/log        its log, JSON lines; `?follow=1` goes on until it ends
    POST   /v1/keeps/ID/attach     the body is its input, the answer what it prints
    GET    /health

A tenant is the subject of an OpenID Connect token for this host's audience, and one that its
operator named. Nobody sees another's keeps. None of it is to be believed: what runs, a tenant
verifies at the keep itself (`garrison.host.verify`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from garrison.attesters.simulated_insecure import KINDS
from garrison.drawbridge.tokens import Unauthorized, bearer
from garrison.errors import GarrisonError, Rejected, Unavailable
from garrison.formats.launch_request import MAX_SIZE
from garrison.host.record import NotFound, Record, Records, State
from garrison.host.shim import KEEP_BYTES
from garrison.host.spec import KeepSpec
from garrison.service.problem import problem, status_of
from garrison.service.requests import read_limited

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from garrison.drawbridge.tokens import Verifier
    from garrison.host.cgroups import Cgroups
    from garrison.host.quota import Quota
    from garrison.host.spec import Backend

# A file of this name in the agent's directory makes it refuse new keeps (`garrison host drain`).
DRAINING = "draining"
_FOLLOW_SECONDS = 0.2
_START_SECONDS = 10.0
_STOP_SECONDS = 15.0
_CHUNK = 1 << 16
# By backend: the attester that `deploy` asks for, and those that simulate.
_ATTESTERS = {"nil": "nil", "cvm": "detect", "kvm": "nil", "snp": "detect", "tdx": "detect"}
_SIMULATED: dict[str, frozenset[str]] = {
    "nil": frozenset(KINDS),
    "kvm": frozenset({"host-simulated-insecure"}),
}


class Full(Rejected):
    """The tenant, or the host, has as much as it may: HTTP 409."""


_STATUSES: tuple[tuple[type[GarrisonError], int], ...] = (
    (Unauthorized, 401),
    (NotFound, 404),
    (Full, 409),
)


@dataclass(frozen=True, slots=True)
class Offer:
    """Where keeps may run on this host.

    Attributes:
        backends: the names of its backends.
        image: the folder of the keep image that machines boot; None where there are none.
        insecure_dev: keeps may simulate a TEE.
        insecure_simulator: the keys that answer for a TEE in a machine then.
    """

    backends: frozenset[Backend]
    image: Path | None = None
    insecure_dev: bool = False
    insecure_simulator: Path | None = None

    def check(self, spec: KeepSpec) -> None:
        """Refuse what there is not.

        Raises:
            Rejected: it is not there, or its attester is another backend's.
        """
        kind = spec.launch.attester.get("kind", "")
        known = {_ATTESTERS[spec.backend]}
        if self.insecure_dev:
            known |= _SIMULATED.get(spec.backend, frozenset())
        checks = (
            ("backend", spec.backend, self.backends),
            ("attester", kind, known),
        )
        for name, found, there in checks:
            if found not in there:
                raise Rejected(
                    f"this host has no such {name}",
                    field=f"keep: {name}",
                    found=repr(found)[:80],
                    expected=", ".join(sorted(there)),
                )

    def arguments(self) -> list[str]:
        """What a keep's keeper is told of it."""
        return [str(path or "") for path in (self.image, self.insecure_simulator)]


class Agent:
    """Runs the keeps of one host."""

    def __init__(
        self, directory: Path, quota: Quota, offer: Offer, cgroups: Cgroups | None = None
    ) -> None:
        """Run keeps.

        Args:
            directory: where they are written down.
            quota: of each tenant.
            offer: where they may run.
            cgroups: holds tenants to what `Quota.bounds` says; None where that is nothing.
        """
        self._directory = directory
        self._cgroups = cgroups
        self._records = Records(directory)
        self._quota = quota
        self._offer = offer
        self._shims: list[subprocess.Popen[bytes]] = []
        # One new keep at a time, so that two cannot take the same place.
        self._making = asyncio.Lock()

    async def make(self, spec: KeepSpec, tenant: str) -> Record:
        """Start a keep.

        Raises:
            Unavailable: the host takes no more, or the keep's keeper does not start.
            Full: the tenant's quota is used up, or a port is taken.
            Rejected: the host has no such backend, or wants to be told more.
        """
        async with self._making:
            await run_in_threadpool(self._admit, spec, tenant)
            created = datetime.now(UTC).isoformat(timespec="microseconds")
            cgroup = await run_in_threadpool(self._cgroup_of, tenant)
            record = await run_in_threadpool(self._records.make, spec, tenant, created)
            try:
                shim = self._start(record, cgroup)
            except OSError as error:
                await run_in_threadpool(record.remove)
                raise Unavailable(
                    f"the keep's keeper did not start: {error.strerror}", field="host"
                ) from error
        for _ in range(int(_START_SECONDS / _FOLLOW_SECONDS)):
            ended = shim.poll() is not None
            if (await run_in_threadpool(record.state)).phase != "starting":
                # Its keeper may still wait for the disk.
                await run_in_threadpool(record.settled)
                return record
            if ended:
                said = await run_in_threadpool(record.keeper_said)
                await run_in_threadpool(record.remove)
                raise Unavailable(f"the keep's keeper did not start: {said}", field="host")
            await asyncio.sleep(_FOLLOW_SECONDS)
        raise Unavailable("the keep's keeper does not start", field="keep", found=record.id)

    def bound(self) -> None:
        """Hold the keeps to today's bounds that an earlier agent of this directory started.

        Raises:
            Unavailable: the kernel does not take them.
        """
        if self._cgroups is None:
            return
        self._cgroups.sweep()
        for record in self._records:
            state = record.state()
            if state.phase not in {"starting", "ended"}:
                self._cgroups.take(record.owner()[0], [state.shim])

    def _cgroup_of(self, tenant: str) -> Path | None:
        return None if self._cgroups is None else self._cgroups.of(tenant)

    def revive(self) -> list[str]:
        """Start the keeps again that the end of this machine took along, where tenants want that.

        Returns:
            Their names.
        """
        self._records.sweep()
        for record in self._records:
            if record.unstarted():
                # Else it could never be ended. A full disk costs that, until the next agent.
                with contextlib.suppress(OSError):
                    record.write_state(State("ended", 0))
        if (self._directory / DRAINING).exists():
            return []
        lost = [record for record in self._records if record.lost()]
        wanted = [r for r in lost if r.spec().restart != "no" and not r.state().stopped]
        for record in wanted:
            self._start(record, self._cgroup_of(record.owner()[0]))
        return [record.id for record in wanted]

    def _admit(self, spec: KeepSpec, tenant: str) -> None:
        if (self._directory / DRAINING).exists():
            raise Unavailable("this host is drained: it takes no new keeps", field="host")
        self._offer.check(spec)
        count = memory = disk = 0
        for record in self._records:
            try:
                ours = record.owner()[0] == tenant
                if record.state().phase == "ended":
                    disk += record.size() if ours else 0
                    continue
                other = record.spec()
            except FileNotFoundError:
                if record.path.exists():
                    raise
                # Another tenant has forgotten it meanwhile.
                continue
            if taken := set(other.ports) & set(spec.ports):
                raise Full("taken by another keep", field="keep: ports", found=sorted(taken))
            if ours:
                count += 1
                memory += other.memory_mib or 0
                disk += max(record.size(), KEEP_BYTES)
        if count >= self._quota.keeps:
            raise Full(
                "the quota is used up",
                field="keeps",
                found=count,
                expected=f"at most {self._quota.keeps}",
                hint="stop one",
            )
        if disk + KEEP_BYTES > self._quota.disk_bytes:
            raise Full(
                "the quota of the host's disk is used up; `garrison host stop` forgets a keep that"
                " has ended, with its log",
                field="keeps",
                found=f"{disk >> 20} MiB, and {KEEP_BYTES >> 20} for this one",
                expected=f"at most {self._quota.disk_bytes >> 20} MiB",
            )
        if self._quota.memory_mib is None:
            return
        if spec.memory_mib is None:
            raise Rejected("missing, for the host has a quota", field="keep: memory_mib")
        if memory + spec.memory_mib > self._quota.memory_mib:
            raise Full(
                "the quota is used up",
                field="keep: memory_mib",
                found=f"{memory} MiB used, {spec.memory_mib} asked for",
                expected=f"at most {self._quota.memory_mib} MiB",
            )

    def _start(self, record: Record, cgroup: Path | None) -> subprocess.Popen[bytes]:
        # In a session of its own: it goes on when the agent ends, also by Ctrl-C.
        log = (record.path / "shim.log").open("ab")
        with log:
            shim = subprocess.Popen(
                [
                    sys.executable, "-I", "-m", "garrison.host.shim", str(record.path),
                    str(cgroup or ""), *self._offer.arguments(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._shims.append(shim)
        # Those that have ended are collected, and forgotten.
        self._shims = [each for each in self._shims if each.poll() is None]
        return shim

    def all_of(self, tenant: str) -> list[dict[str, Any]]:
        """The tenant's keeps, the oldest first."""
        found = []
        for record in self._records:
            try:
                if record.owner()[0] == tenant:
                    found.append(self.describe(record))
            except FileNotFoundError:
                if record.path.exists():
                    raise
                # It was forgotten meanwhile.
        return found

    def of(self, name: str, tenant: str) -> Record:
        """See `garrison.host.record.Records.of`."""
        return self._records.of(name, tenant)

    def describe(self, record: Record) -> dict[str, Any]:
        """A keep, as the host tells of it."""
        for shim in self._shims:
            shim.poll()
        spec = record.spec()
        return {
            "id": record.id,
            "slug": spec.launch.slug,
            "created": record.owner()[1],
            **{k: v for k, v in asdict(record.state()).items() if k != "shim"},
            "backend": spec.backend,
            "restart": spec.restart,
            "ports": list(spec.ports),
            "memory_mib": spec.memory_mib,
        }

    async def end(self, record: Record) -> None:
        """End a keep, or forget one that has ended.

        Raises:
            Unavailable: its keeper does not answer, or the host's disk takes no more.
        """
        if (await run_in_threadpool(record.state)).phase == "ended":
            await run_in_threadpool(record.remove)
            return
        reader, writer = await _ask(record, "stop")
        try:
            # It closes when the keep has ended.
            await asyncio.wait_for(reader.read(), _STOP_SECONDS)
        except TimeoutError as error:
            raise Unavailable("the keep does not end", field="keep", found=record.id) from error
        finally:
            writer.close()
        # It may have been forgotten meanwhile, for another.
        with contextlib.suppress(FileNotFoundError):
            if (await run_in_threadpool(record.settled)).phase != "ended":
                # Its keeper ends all the same where the disk is full, or was ended itself.
                raise Unavailable(
                    "its end is not written down: the host might start it again",
                    field="keep",
                    found=record.id,
                    hint="try again: a keep that has ended is forgotten then",
                )


async def _ask(record: Record, what: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Speak with a keep's keeper.

    Raises:
        Unavailable: it is not there.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(_short(record))
    except OSError as error:
        raise Unavailable("the keep has no keeper", field="keep", found=record.id) from error
    writer.write(json.dumps({"do": what}).encode() + b"\n")
    await writer.drain()
    return reader, writer


def _short(record: Record) -> str:
    """A path of its keeper's socket, by way of the directory that the keeper is in."""
    # A socket's path is at most 107 bytes long (unix(7)); this one is, wherever the keep is kept.
    return f"/proc/{record.state().shim}/cwd/control"


def application(
    agent: Agent,
    verifier: Verifier,
    tenants: frozenset[str] | None,
    *,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The agent's ASGI application.

    Args:
        agent: what it does.
        verifier: of tenants' tokens.
        tenants: the subjects that may use the host; None for whoever has a token for it.
        routes: further routes.
    """

    async def tenant(request: Request) -> str:
        token = bearer(request.headers.get("authorization"))
        subject = (await verifier.verify_soon(token)).subject
        if tenants is not None and subject not in tenants:
            raise Rejected("not a tenant of this host", field="token: subject", found=subject)
        return subject

    async def keeps(request: Request) -> Response:
        if request.method == "POST":
            who = await tenant(request)
            spec = KeepSpec.from_json(await read_limited(request, MAX_SIZE))
            record = await agent.make(spec, who)
            return JSONResponse(await run_in_threadpool(agent.describe, record), 201)
        return JSONResponse({"keeps": await run_in_threadpool(agent.all_of, await tenant(request))})

    async def keep(request: Request) -> Response:
        record = agent.of(request.path_params["id"], await tenant(request))
        if request.method == "DELETE":
            await agent.end(record)
            return Response(status_code=204)
        return JSONResponse(await run_in_threadpool(agent.describe, record))

    async def log(request: Request) -> Response:
        record = agent.of(request.path_params["id"], await tenant(request))
        follow = request.query_params.get("follow") == "1"
        return StreamingResponse(_log(record, follow=follow), media_type="application/jsonl")

    async def attach(request: Request) -> Response:
        record = agent.of(request.path_params["id"], await tenant(request))
        reader, writer = await _ask(record, "attach")
        return _Attached(reader, writer)

    async def health(_request: Request) -> Response:
        return Response()

    return Starlette(
        routes=[
            *routes,
            Route("/health", health),
            Route("/v1/keeps", _guarded(keeps), methods=["GET", "POST"]),
            Route("/v1/keeps/{id}", _guarded(keep), methods=["GET", "DELETE"]),
            Route("/v1/keeps/{id}/log", _guarded(log)),
            Route("/v1/keeps/{id}/attach", _guarded(attach), methods=["POST"]),
        ]
    )


def _guarded(
    answer: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    async def guarded(request: Request) -> Response:
        try:
            return await answer(request)
        except GarrisonError as error:
            known = (status for kind, status in _STATUSES if isinstance(error, kind))
            status = next(known, status_of(error))
            return problem(error, status=status, request_id=request.state.request_id)

    return guarded


async def _log(record: Record, *, follow: bool) -> AsyncIterator[bytes]:
    """What a keep printed, and with `follow` what it prints until it ends."""
    older = record.log.with_name("log.1")
    if older.exists():
        yield await run_in_threadpool(older.read_bytes)
    file = None
    try:
        while True:
            # Asked first: what is read after it has ended is all.
            ended = (await run_in_threadpool(record.state)).phase == "ended"
            if file is None and record.log.exists():
                file = record.log.open("rb")
            while file is not None and (data := await run_in_threadpool(file.read, _CHUNK)):
                yield data
            if ended or not follow:
                return
            if file is not None and not record.log.samefile(f"/proc/self/fd/{file.fileno()}"):
                # It was put aside, and all of it read.
                file.close()
                file = None
                continue
            await asyncio.sleep(_FOLLOW_SECONDS)
    finally:
        if file is not None:
            file.close()


class _Attached(Response):
    """Carries the request's body to the keep, and what it prints back, at the same time.

    Starlette's streaming answer would take the body for itself, to notice a client that leaves.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(media_type="application/octet-stream")
        del self.headers["content-length"]
        self._reader = reader
        self._writer = writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the keep ends, or the client leaves."""
        del scope  # the state in it is of no use here
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # So that the answer begins before the keep says anything.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        feeding = asyncio.create_task(self._feed(receive))
        try:
            while data := await self._reader.read(_CHUNK):
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            self._writer.close()

    async def _feed(self, receive: Receive) -> None:
        while (message := await receive())["type"] == "http.request":
            if body := message.get("body"):
                self._writer.write(body)
                await self._writer.drain()
        # The client has left: the keep's keeper lets go, and the answer ends.
        self._writer.close()
