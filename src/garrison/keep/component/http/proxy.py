"""Run a component of the world `wasi:http/proxy`: serve it on the keep's ports, until the end."""

from __future__ import annotations

from garrison.errors import Misuse
from garrison.keep.component import interfaces
from garrison.keep.component.host import Host
from garrison.keep.component.http.crew import Crew
from garrison.keep.component.http.server import Server
from garrison.keep.component.instance import Instance
from garrison.keep.component.wasi.http_messages import ResponseOutparam
from garrison.keep.logs import keep_log
from garrison.keep.vfs.descriptor import Late
from garrison.keep.vfs.streams import ListeningSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from garrison.formats.limits import Limits
    from garrison.keep.component.given import Given
    from garrison.keep.component.http.crew import Member
    from garrison.keep.component.http.exchange import Exchange
    from garrison.keep.component.link import Lifted, Program
    from garrison.keep.engine.runtime import Engine

# RFC 7301's registry: what the keep can speak for a component.
_SPOKEN = frozenset(("http/1.1", "http/1.0"))
# How long requests that are under way may take when the keep is told to end.
_GRACE_SECONDS = 10.0


class Handler:
    """Answers the requests of one thread, each with a new instance of the component.

    Args:
        proxy: what to run.
        member: the thread.
        given: what each instance is given; a root directory is made for each.
    """

    def __init__(self, proxy: Proxy, member: Member, given: Given) -> None:
        self._proxy = proxy
        self._member = member
        self._given = given
        self._streams = given.streams()
        self._directories = [pair for pair in given.directories() if pair[0] != "/"]
        self._left = 0
        self._instance = proxy.instance(member, given.limits)

    def _host(self) -> Host:
        given, member = self._given, self._member
        # Two requests share no files: what one writes is gone with its instance.
        own = ("/", Late("/", lambda: given.root(member.wait)))
        directories = [own, *self._directories]
        most = given.limits.descriptors
        return Host(given.args, given.env, self._streams, directories, given.network, member, most)

    def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request()
        instance = self._instance
        try:
            if not self._left:
                self._left = self._given.limits.http_instance_requests
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
        self._engine = engine
        self._program = program
        self.handle = handle

    def run(self, given: Given) -> int:
        """Serve it until the keep is told to end.

        Its ports are the listeners that it is given, or else all that the network has a rule for.

        Raises:
            Misuse: it has no port, or one where something else than HTTP/1 is spoken.
            Interrupted: SIGINT or SIGTERM came.
            OutOfTime: its time is over.
        """
        limits, interrupts = given.limits, given.interrupts
        listeners = given.listeners()
        if not listeners and given.network is not None:
            listeners = [ListeningSocket(opened) for opened in given.network.listen_all()]
        server = Server(listeners, limits)
        crew = Crew(
            server,
            self._engine,
            lambda member: Handler(self, member, given),
            most=limits.http_requests,
            seconds=float(limits.http_seconds),
            stack=limits.stack,
            ended=interrupts.ended,
        )
        try:
            _check_ports(listeners)
            interrupts.check()
            interrupts.start_clock()
            ports = ", ".join(str(listener.port()) for listener in listeners)
            keep_log().info("listening for HTTP on %s", ports)
            crew.run(interrupts, _GRACE_SECONDS)
        finally:
            server.close()
        return 0

    def instance(self, member: Member, limits: Limits) -> Instance:
        """An instance for the requests of one thread."""
        return Instance(self._engine, self._program, interfaces.function, limits, member.late)


def _check_ports(listeners: Sequence[ListeningSocket]) -> None:
    """Refuse to serve where no request could be answered.

    Raises:
        Misuse: there is no port, or the clients of one may agree to speak another protocol.
    """
    if not listeners:
        raise Misuse(
            "the component serves HTTP, and has no port",
            field="network.incoming",
            expected='a port: [network.incoming.443], or [[files]] with kind = "listen"',
        )
    for listener in listeners:
        other = [name for name in listener.source().protocols if name not in _SPOKEN]
        if other:
            raise Misuse(
                "the component serves HTTP/1.1, and its port is to speak something else",
                field=f"alpn of port {listener.port()}",
                found=", ".join(other),
                expected='alpn = ["http/1.1"], or none',
                hint="HTTP/2 is for modules that have it themselves, on their own sockets",
            )
