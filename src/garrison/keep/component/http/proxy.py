"""Run a component of the world `wasi:http/proxy`: serve it on the keep's ports, until the end."""

from __future__ import annotations

import logging

from garrison.errors import Malformed, Misuse
from garrison.keep.component import interfaces
from garrison.keep.component.host import Host
from garrison.keep.component.http.crew import Crew
from garrison.keep.component.http.server import Server
from garrison.keep.component.instance import Instance
from garrison.keep.component.wasi.http_messages import ResponseOutparam
from garrison.keep.vfs.descriptor import FOLDER, Late
from garrison.keep.vfs.streams import ListeningSocket, Null

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from garrison.formats.limits import Limits
    from garrison.keep.component.http.crew import Member
    from garrison.keep.component.http.exchange import Exchange
    from garrison.keep.component.link import Lifted, Program
    from garrison.keep.engine.runtime import Engine
    from garrison.keep.vfs.descriptor import Descriptor
    from garrison.keep.vfs.network import Network, Wait
    from garrison.keep.wasi.interrupts import Interrupts

log = logging.getLogger("garrison.keep")

HANDLER = "wasi:http/incoming-handler"
# How long requests that are under way may take when the keep is told to end.
_GRACE_SECONDS = 10.0


class Handler:
    """Answers the requests of one thread, each with a new instance of the component.

    Args:
        proxy: what to run.
        member: the thread.
        host: what it runs on.
    """

    def __init__(self, proxy: Proxy, member: Member, limits: Limits) -> None:
        self._proxy = proxy
        self._left = 0
        self._reuses = limits.http_instance_requests
        self._instance = proxy.instance(member)
        self._host = proxy.host(member)

    def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request()
        instance = self._instance
        try:
            if not self._left:
                self._left = self._reuses
                instance.start(self._host())
            self._left -= 1
            instance.call(self._proxy.handle, request, ResponseOutparam(exchange))
        except BaseException:
            self._left = 0
            raise
        finally:
            if not self._left:
                instance.close()

    def close(self) -> None:
        """Give all back."""
        self._instance.end()


class Proxy:
    """A component of the world, ready to be served.

    Args:
        engine: what runs it.
        program: the component.
        handle: its function that answers requests.
    """

    def __init__(self, engine: Engine, program: Program, handle: Lifted) -> None:
        wanted = interfaces.exported(HANDLER).functions["handle"]
        if handle.kind != wanted:
            raise Malformed("has another type than it should", field=f"{HANDLER} handle")
        self._engine = engine
        self._program = program
        self.handle = handle

    def run(
        self,
        *,
        descriptors: Mapping[int, Descriptor],
        args: Sequence[str],
        env: Mapping[str, str],
        network: Network | None,
        limits: Limits,
        interrupts: Interrupts,
        root: Callable[[Wait], Descriptor],
    ) -> int:
        """Serve it until the keep is told to end.

        Args:
            descriptors: what a core module would have open from the start, by number: the first
                three are the standard streams, and the listeners among them its ports.
            args: its arguments, the program's name first.
            env: its environment.
            network: what it can reach, and its ports if no listener is among the descriptors.
            limits: how much it may take.
            interrupts: what ends it from outside; they are watched already.
            root: makes the root directory of one instance, of what waits there.

        Raises:
            Misuse: it has no port.
            Interrupted: SIGINT or SIGTERM came.
            OutOfTime: its time is over.
        """
        streams = [descriptors.get(number) or Null() for number in range(3)]
        listeners = [found for found in descriptors.values() if isinstance(found, ListeningSocket)]
        if not listeners and network is not None:
            listeners = [ListeningSocket(opened) for opened in network.listen_all()]
        if not listeners:
            raise Misuse(
                "the component serves HTTP, and has no port",
                field="network.incoming",
                expected='a port: [network.incoming.443], or [[files]] with kind = "listen"',
            )

        others = [
            (found.preopened, found)
            for found in descriptors.values()
            if found.filetype == FOLDER and found.preopened not in (None, "/")
        ]

        def host(member: Member) -> Callable[[], Host]:
            return lambda: fresh(member)

        def fresh(member: Member) -> Host:
            # Two requests share no files: what one writes is gone with its instance.
            own = ("/", Late("/", lambda: root(member.wait)))
            return Host(args, env, streams, [own, *others], network, member, limits.descriptors)

        def instance(member: Member) -> Instance:
            return Instance(
                self._engine,
                self._program,
                interfaces.function,
                memory=limits.memory,
                table_elements=limits.table_elements,
                late=member.late,
            )

        self.instance, self.host = instance, host
        server = Server(listeners, limits)
        crew = Crew(
            server,
            self._engine,
            lambda member: Handler(self, member, limits),
            most=limits.http_requests,
            seconds=float(limits.http_seconds),
            stack=limits.stack,
            ended=interrupts.ended,
        )
        try:
            interrupts.check()
            interrupts.start_clock()
            ports = ", ".join(str(listener.port()) for listener in listeners)
            log.info("listening for HTTP on %s", ports)
            crew.run(interrupts, _GRACE_SECONDS)
        finally:
            server.close()
        return 0
