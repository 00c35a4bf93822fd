"""The drawbridge's HTTP: the original's API v0.1.0, without its defects.

Routes, methods, statuses, headers and texts are the original's (`docs/reference/drawbridge.md`).
What differs from it:

- a failed or interrupted upload leaves nothing, and can be repeated;
- a node of a tree is taken only if its directory, or the tag, lists it;
- bodies are streamed in both directions, and bounded;
- a client certificate reads what the repository's `keeps` say, not everything;
- who may not read a private repository is answered as for one that does not exist;
- `ETag`, `If-None-Match`, `If-Match` (of changes too), and `Range` for what is in a tree;
- tags in pages (`?n=&last=`), the latest tag (`?latest`), a user's repositories (`?repositories`);
- the public repositories in whose names a text is (`/api/v0.1.0/?q=`);
- who may read a repository can be changed (`_policy`);
- a tag can be yanked: it stays, and says so in `Garrison-Yanked`;
- with `Accept: application/problem+json` a refusal is a problem document (RFC 9457).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from garrison.drawbridge import conditional, openapi, rules
from garrison.drawbridge.answers import document, following, headers_for, listing, without_body
from garrison.drawbridge.catalogue import Catalogue
from garrison.drawbridge.directories import Directories
from garrison.drawbridge.documents import check_json_type, deserialize
from garrison.drawbridge.known import KnownTags
from garrison.drawbridge.layout import Name, content_key
from garrison.drawbridge.named import Named, StorageFailure
from garrison.drawbridge.readers import StewardId, reader_of
from garrison.drawbridge.refusals import refusal
from garrison.drawbridge.routes import MethodNotAllowed, NotFound, check_method, no_route, parse
from garrison.drawbridge.single_flight import SingleFlight
from garrison.drawbridge.tokens import Unauthorized, bearer
from garrison.drawbridge.uploads import Announced, receive
from garrison.errors import GarrisonError, Malformed
from garrison.formats.tree import (
    DIRECTORY_TYPE,
    ENTRY_TYPE,
    MAX_DIRECTORY,
    MAX_FILE,
    Entry,
    max_length,
)
from garrison.service import metrics
from garrison.service.requests import header

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send

    from garrison.drawbridge.store import Store
    from garrison.drawbridge.tokens import Context, Identity, Level, Verifier
    from garrison.service.known import Known

T = TypeVar("T")

_UPLOADS = metrics.Counter("garrison_drawbridge_uploads", "What was created.", "kind")
_UPLOADED = metrics.Counter("garrison_drawbridge_uploaded_bytes", "Bytes of that.", "kind")
_DOWNLOADS = metrics.Counter(
    "garrison_drawbridge_downloads", "What was asked for and found.", "kind"
)
_DOWNLOADED = metrics.Counter("garrison_drawbridge_downloaded_bytes", "Bytes of that.", "kind")
# Of the store, for one request.
_READ_AT_ONCE = 16
# What the original says of anything that is not there.
_NO_REPOSITORY = "Repository does not exist"


def application(
    store: Store,
    verifier: Verifier,
    *,
    steward_ids: frozenset[str] = frozenset(),
    routes: Sequence[Route] = (),
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    max_blob: int = MAX_FILE,
    max_meta: int = MAX_DIRECTORY,
) -> Service:
    """The drawbridge's ASGI application.

    Args:
        store: where everything is.
        verifier: of users' tokens.
        steward_ids: the SPIFFE IDs of the stewards that may look up private tags; none given
            means every steward under the client CA.
        routes: further routes, each of one path.
        clock: tells the time, once for each request with a certificate.
        max_blob: the most bytes of a file; keeps take no more than the default.
        max_meta: the most bytes of a directory, a tag, or a record.
    """
    return Service(store, verifier, steward_ids, routes, clock, (max_blob, max_meta))


class Service:
    """Answers every request: an ASGI application."""

    def __init__(
        self,
        store: Store,
        verifier: Verifier,
        steward_ids: frozenset[str],
        routes: Sequence[Route],
        clock: Callable[[], datetime],
        limits: tuple[int, int],
    ) -> None:
        self._store = store
        self._directories = Directories(store)
        self._catalogue = Catalogue(store, self._are_public)
        self._reading = SingleFlight[str, bool]()
        self._tags_known = KnownTags(store)
        self._verifier = verifier
        self._steward_ids = steward_ids
        self._routes = {route.path: route for route in routes}
        self._clock = clock
        self._max_blob, self._max_meta = limits

    def known(self, target: bytes) -> Known | None:
        """The answer to a GET of `target` that everybody gets, if it is known."""
        found = self._tags_known.find(target)
        if found is not None:
            _DOWNLOADS.add(found.route)
            _DOWNLOADED.add(found.route, amount=len(found.body))
        return found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            # As ASGI says: nothing is to be done when the server starts, or ends.
            raise NotImplementedError(scope["type"])
        if (route := self._routes.get(scope["path"])) is not None:
            await route.handle(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except GarrisonError as error:
            response = refusal(request, error)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path: str = request.scope["path"]
        if path == "/health":
            return Response()
        if path == openapi.PATH:
            if request.method not in openapi.DOCUMENT_METHODS:
                raise MethodNotAllowed("document", openapi.DOCUMENT_METHODS)
            return document(request, rules.JSON_TYPE, openapi.served())
        name = parse(path)
        if name.kind == "repository query" and "q" not in request.query_params:
            raise no_route(path)
        request.state.route = name.kind
        check_method(name, request.method)
        if request.method == "PUT":
            return await self._put(request, name)
        if request.method == "DELETE":
            await self._require_owner(request, name, "drawbridge_tags", "write")
            await self._check_conditions(request, name)
            await self._store.remove(name.key())
            return Response(status_code=204)
        if name.kind == "repository query":
            return await self._search(request, name)
        if name.kind == "user" and "repositories" in request.query_params:
            return await self._repositories(request, name)
        if name.kind in {"user", "repository", "repository policy"}:
            context: Context = (
                "drawbridge_users" if name.kind == "user" else "drawbridge_repositories"
            )
            await self._require_owner(request, name, context, "read")
            if name.kind == "repository policy":
                return await self._policy(request, name)
            return await self._named(request, name)
        await self._require_reader(request, name)
        if name.kind == "repository tag query":
            return await self._tags(request, name)
        return await (self._node if name.kind == "tag tree" else self._named)(request, name)

    # Who asks.

    async def _identity(self, request: Request) -> Identity:
        return await self._verifier.verify_soon(bearer(header(request, "authorization")))

    async def _require_owner(
        self, request: Request, name: Name, context: Context, level: Level
    ) -> None:
        """Check that a token is there, of the user under whom `name` is, for that purpose."""
        await self._check_owner(await self._identity(request), name, context, level)

    async def _check_owner(
        self, identity: Identity, name: Name, context: Context, level: Level
    ) -> None:
        record = await self._store.named(name.owner().key())
        if record is None:
            raise Unauthorized(f"User `{name.user}` not found")
        if _ours(rules.UserRecord.from_bytes, record).subject != identity.subject:
            raise Unauthorized(
                f"You are logged in as `{identity.subject}`,"
                f" and not authorized for user `{name.user}`"
            )
        identity.require(context, level)

    async def _require_reader(self, request: Request, name: Name) -> None:
        """Check that whoever asks may read in the repository where `name` is."""
        stored = await self._config(name)
        if stored is not None:
            config = _ours(_repository_config, stored)
            if config.public or self._admits(request, config, name):
                return
        # A repository that does not exist is answered as a private one.
        await self._require_owner(request, name, "drawbridge_repositories", "read")
        if stored is None:
            raise _missing(request)

    async def _config(self, name: Name) -> Named | None:
        """What holds for the repository where `name` is: its policy, or else its configuration."""
        policy = await self._store.named(name.policy().key())
        return policy or await self._store.named(name.repository().key())

    def _admits(self, request: Request, config: rules.RepositoryConfig, name: Name) -> bool:
        """Tell whether the client's certificate opens a private repository for `name`."""
        reader = reader_of(request.state.client_certificate, self._clock())
        if reader is None:
            return False
        if isinstance(reader, StewardId):
            known = not self._steward_ids or reader in self._steward_ids
            # It looks up digests; what they are the digests of is no business of it.
            return known and name.kind == "tag"
        return config.admits(reader)

    # Reading.

    async def _named(self, request: Request, name: Name) -> Response:
        """Answer with what stands under a name itself: a user, a repository or a tag."""
        stored = await self._store.named(name.key())
        if stored is None:
            raise _missing(request)
        headers = {}
        if name.kind == "tag":
            yank = await self._store.named(name.yank().key())
            if yank is not None:
                headers["Garrison-Yanked"] = _ours(rules.Yank.from_bytes, yank).to_header()
        _count_download(request, name, len(stored.body))
        answer = document(request, stored.type, stored.body, headers)
        if (
            name.kind == "tag"
            and not headers
            and (request.method, answer.status_code) == ("GET", 200)
            and not request.scope["query_string"]
        ):
            target, path = request.scope["raw_path"], request.scope["path"]
            self._tags_known.keep(target, path, name, stored, answer.headers)
        return answer

    async def _policy(self, request: Request, name: Name) -> Response:
        """Answer with what holds for a repository."""
        config = await self._config(name)
        if config is None:
            raise _missing(request)
        return document(request, config.type, config.body)

    async def _node(self, request: Request, name: Name) -> Response:
        """Answer with a directory or file of a tree."""
        stored = await self._store.named(name.key())
        if stored is None:
            raise _missing(request)
        entry = _ours(Entry.from_bytes, stored)
        headers = headers_for(entry) | {"Accept-Ranges": "bytes"}
        if (answer := without_body(request, headers)) is not None:
            return answer
        if request.method == "HEAD":
            return Response(headers=headers)
        part = conditional.byte_range(
            header(request, "range"), header(request, "if-range"), headers["ETag"], entry.length
        )
        key, status = content_key(entry.workload_digest), 200
        content = await self._store.content(key, entry.length, part)
        if part is not None:
            status = 206
            headers["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{entry.length}"
            headers["Content-Length"] = str(part[1] - part[0])
        _count_download(request, name, int(headers["Content-Length"]))
        return StreamingResponse(content, status, headers=headers)

    async def _tags(self, request: Request, name: Name) -> Response:
        """Answer with the names of a repository's tags: all, a page, or the latest to be used."""
        query = request.query_params
        tags = await self._store.names(name.key())
        headers = {}
        if "latest" in query:
            yanked = set(await self._store.names(Name("tag yank", name.user, name.repo).key()))
            tags = rules.latest([tag for tag in tags if tag not in yanked])
        elif "n" in query or "last" in query:
            tags, more = rules.page(tags, query.get("n"), query.get("last"))
            if more:
                headers = following(name, {"n": str(len(tags)), "last": tags[-1]})
        return document(request, rules.JSON_TYPE, listing(tags), headers)

    async def _repositories(self, request: Request, name: Name) -> Response:
        """Answer with the names of a user's repositories: all for the user, else the public."""
        found = await self._store.names(f"repos/{name.user}/")
        if request.headers.get("authorization") is not None and await self._is_owner(request, name):
            return document(request, rules.JSON_TYPE, listing(found))
        are_public = await self._are_public([f"{name.user}/{repo}" for repo in found])
        public = [repo for repo, is_public in zip(found, are_public, strict=True) if is_public]
        return document(request, rules.JSON_TYPE, listing(public))

    async def _is_owner(self, request: Request, name: Name) -> bool:
        """Tell whether the token, which must be valid, shows all of the user's repositories."""
        identity = await self._identity(request)
        try:
            await self._check_owner(identity, name, "drawbridge_repositories", "read")
        except Unauthorized:
            return False
        return True

    async def _search(self, request: Request, name: Name) -> Response:
        """Answer with a page of the public repositories whose `user/repo` has a text in it."""
        query = request.query_params
        count = rules.page_size(query.get("n", str(rules.MAX_PAGE)))
        # One more than the page tells whether there is another.
        public = await self._catalogue.public(query["q"], query.get("last", ""), count + 1)
        headers = {}
        if len(public) > count:
            headers = following(name, {"q": query["q"], "n": str(count), "last": public[count - 1]})
        return document(request, rules.JSON_TYPE, listing(public[:count]), headers)

    async def _are_public(self, repositories: Sequence[str]) -> list[bool]:
        """Tell which of the `repositories`, `USER/REPO`, everybody may read."""
        places = asyncio.Semaphore(_READ_AT_ONCE)

        async def in_turn(repository: str) -> bool:
            async with places:
                # Many who ask at once ask for the same.
                return await self._reading.do(repository, partial(self._is_public, repository))

        return await asyncio.gather(*map(in_turn, repositories))

    async def _is_public(self, repository: str) -> bool:
        user, _, repo = repository.partition("/")
        stored = await self._config(Name("repository", user, repo))
        return stored is not None and _ours(_repository_config, stored).public

    # Putting.

    async def _put(self, request: Request, name: Name) -> Response:
        """Create what `name` names, if the body is what may stand there."""
        announced = Announced.by(request)
        if name.kind == "user":
            stored = await self._user(request, announced)
        elif name.kind in {"repository", "repository policy"}:
            stored = await self._repository(request, name, announced)
        elif name.kind == "tag yank":
            stored = await self._yank(request, name, announced)
        elif announced.digest is None:
            raise Malformed("At least one content digest value must be specified")
        elif name.kind == "tag":
            stored = await self._tag(request, name, announced)
        else:
            stored = await self._tree(request, name, announced)
        await self._check_conditions(request, name)
        status = 201
        if name.kind == "repository policy":
            if await self._store.named(name.repository().key()) is None:
                raise NotFound(_NO_REPOSITORY)
            status = 200 if await self._store.replace(name.key(), stored) else 201
        else:
            # The name comes last: before it, nothing of all this can be seen.
            await self._store.create(name.key(), stored)
        if name.kind in {"repository", "repository policy"}:
            self._catalogue.changed(f"{name.user}/{name.repo}")
        _UPLOADS.add(name.kind)
        _UPLOADED.add(name.kind, amount=announced.length)
        return Response(status_code=status)

    async def _check_conditions(self, request: Request, name: Name) -> None:
        """Check what the client expects to be at `name` before that changes."""
        if_match, if_none_match = header(request, "if-match"), header(request, "if-none-match")
        if if_match is None and if_none_match is None:
            return
        is_policy = name.kind == "repository policy"
        stored = await (self._config(name) if is_policy else self._store.named(name.key()))
        tag = None
        if stored is not None and name.kind == "tag tree":
            tag = headers_for(_ours(Entry.from_bytes, stored))["ETag"]
        elif stored is not None:
            tag = headers_for(Entry.of(stored.body, stored.type))["ETag"]
        conditional.check_change(if_match, if_none_match, tag)

    async def _user(self, request: Request, announced: Announced) -> Named:
        identity = await self._identity(request)
        identity.require("drawbridge_users", "write")
        check_json_type(announced.type)
        body = await self._short_body(request, announced, rules.MAX_USER)
        if deserialize(rules.UserRecord.from_bytes, body).subject != identity.subject:
            raise Unauthorized("OpenID Connect subject mismatch")
        return Named(announced.type, body)

    async def _repository(self, request: Request, name: Name, announced: Announced) -> Named:
        await self._require_owner(request, name, "drawbridge_repositories", "write")
        check_json_type(announced.type)
        body = await self._short_body(request, announced, rules.MAX_REPOSITORY)
        deserialize(rules.RepositoryConfig.from_bytes, body)
        return Named(announced.type, body)

    async def _yank(self, request: Request, name: Name, announced: Announced) -> Named:
        await self._require_owner(request, name, "drawbridge_tags", "write")
        if await self._store.named(Name("tag", name.user, name.repo, name.tag).key()) is None:
            raise NotFound("Tag does not exist")
        check_json_type(announced.type)
        body = await self._short_body(request, announced, rules.MAX_YANK)
        deserialize(rules.Yank.from_bytes, body)
        return Named(announced.type, body)

    async def _tag(self, request: Request, name: Name, announced: Announced) -> Named:
        await self._require_owner(request, name, "drawbridge_tags", "write")
        if await self._store.named(name.repository().key()) is None:
            raise NotFound(_NO_REPOSITORY)
        rules.check_tag_type(announced.type)
        body = await self._short_body(request, announced, rules.MAX_TAG)
        deserialize(partial(rules.tag_entry, announced.type), body)
        return Named(announced.type, body)

    async def _tree(self, request: Request, name: Name, announced: Announced) -> Named:
        await self._require_owner(request, name, "drawbridge_tags", "write")
        # Before 100 MB are received in vain.
        if await self._store.named(name.key()) is not None:
            await self._check_conditions(request, name)
            raise await self._store.taken(name.key())
        listed = await self._listed(name)
        limit = max_length("/".join(name.path), announced.type)
        limit = min(limit, self._max_meta if limit == MAX_DIRECTORY else self._max_blob)
        # As the original: those that the client or its tree names. And that of its key.
        algorithms = {"sha-256", *(() if listed is None else listed.digest.values)}
        with await receive(request, announced, limit, self._store.spool, algorithms) as upload:
            if listed is not None:
                rules.check_listed(listed, upload.entry)
            if upload.entry.type == DIRECTORY_TYPE:
                await self._directories.parse(upload.read())
            await self._store.put_content(content_key(upload.entry.workload_digest), upload.file)
        return Named(ENTRY_TYPE, upload.entry.to_bytes())

    async def _listed(self, name: Name) -> Entry | None:
        """What the directory of the node `name`, or for the root the tag, says of it."""
        parent = name.parent()
        stored = await self._store.named(parent.key())
        if stored is None:
            raise NotFound(
                "Not found",
                found=f"nothing at {parent.url_path()}",
                hint="put the tag first, then its tree from the root down",
            )
        if parent.kind == "tag":
            return rules.tag_entry(stored.type, stored.body)
        entry = _ours(Entry.from_bytes, stored)
        if entry.type != DIRECTORY_TYPE:
            raise Malformed("not a directory", field=parent.url_path(), found=entry.type)
        return rules.listed_entry(name.path[-1], await self._directories.get(entry))

    async def _short_body(self, request: Request, announced: Announced, limit: int) -> bytes:
        """Receive a body that is a document."""
        with await receive(request, announced, min(limit, self._max_meta), None) as upload:
            return upload.read()


@lru_cache(maxsize=256)
def _repository_config(body: bytes) -> rules.RepositoryConfig:
    return rules.RepositoryConfig.from_bytes(body)


def _ours(parse: Callable[[bytes], T], stored: Named) -> T:
    """Parse what this drawbridge checked before it stored it: it is not the client's fault."""
    try:
        return parse(stored.body)
    except Malformed as error:
        raise StorageFailure("Storage backend failure") from error


def _count_download(request: Request, name: Name, length: int) -> None:
    if request.method != "HEAD":
        _DOWNLOADS.add(name.kind)
        _DOWNLOADED.add(name.kind, amount=length)


def _missing(request: Request) -> NotFound:
    return NotFound("Not found" if request.method == "HEAD" else _NO_REPOSITORY)
