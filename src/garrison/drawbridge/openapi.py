"""The drawbridge's HTTP as an OpenAPI 3.1 document, which it serves at `/openapi.json`.

Methods, the forms of names, and limits are those that the routes themselves use; what else there
is to say stands here once, in tables. Tests compare the document with the routes, and refuse an
answer of a real drawbridge that it does not state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from garrison.drawbridge import rules
from garrison.drawbridge.openapi_schemas import COUNT, Json, names, ref, schemas, text
from garrison.drawbridge.routes import METHODS, SERVER_VERSION
from garrison.formats.content_digest import ALGORITHMS
from garrison.formats.signed_tag import JWS_TYPE
from garrison.formats.slug import MAX_TAG_NAME, REPO_PATTERN, TAG_PATTERN, USER_PATTERN
from garrison.formats.tree import DIRECTORY_TYPE, ENTRY_TYPE, MAX_DEPTH, NAME_PATTERN
from garrison.service.problem import PROBLEM_JSON

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.drawbridge.layout import Kind

PATH = "/openapi.json"
DOCUMENT_METHODS = ("HEAD", "GET")
# Whoever asks whether it lives may ask in any way.
HEALTH_METHODS = ("HEAD", "GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE")

_ANY = "*/*"
_FLAG: Json = {"type": "string", "maxLength": 0}
_NUMBER = r"(?:0|[1-9]\d{0,8})"


def _query(name: str, schema: Json, what: str) -> Json:
    return {
        "name": name,
        "in": "query",
        "description": what,
        "schema": schema,
        "allowEmptyValue": schema is _FLAG,
    }


# The parameters of paths.
_PATH: dict[str, tuple[str, Json]] = {
    "version": (
        "Of the API, a semantic version; clients send 0.1.0.",
        # Every patch of the versions that are known.
        text(rf"0\.[0-{SERVER_VERSION[1]}]\.{_NUMBER}") | {"examples": ["0.1.0"]},
    ),
    "user": ("A user.", text(USER_PATTERN)),
    "repo": ("A repository.", text(REPO_PATTERN)),
    "tag": ("A tag: a semantic version.", text(TAG_PATTERN, MAX_TAG_NAME)),
    "path": (
        "The names on the way from the root of the tree, with a slash between them.",
        text(rf"{NAME_PATTERN}(?:/{NAME_PATTERN}){{0,{MAX_DEPTH - 1}}}"),
    ),
}


@dataclass(frozen=True, slots=True)
class _Said:
    """What there is to say of a kind of name.

    Attributes:
        paths: where it is.
        what: it, in a few words.
        access: who may do what with it.
        got: the media types of what is got, with their schemas.
        put: those of what is put.
        digest: whether `Content-Digest` is demanded of who puts it.
        queries: the parameters of GET.
        headers: of an answer with 200 or 206, besides those of every answer of content.
        readers: who gets it without a user's token, as `_FOR` has it.
    """

    paths: tuple[str, ...]
    what: str
    access: str
    got: Mapping[str, Json]
    put: Mapping[str, Json] = field(default_factory=dict)
    digest: bool = False
    queries: tuple[Json, ...] = ()
    headers: tuple[str, ...] = ()
    readers: str = "all and keeps"


# Who gets something without a token: some things are for everybody, some for nobody.
_FOR: dict[str, list[Json]] = {"all and keeps": [{}, {"keep": []}], "all": [{}], "nobody": []}

_API = "/api/v{version}"
_REPO = f"{_API}/{{user}}/{{repo}}"
_TAG = f"{_REPO}/_tag/{{tag}}"
_READERS = (
    "Readable by all if the repository is public; else by its user, by the keeps that the"
    " repository's `keeps` describe, by their certificate, and by the steward, tags alone."
)
_OF_TAGS = f"{_READERS} Written by its user, scope `drawbridge_tags`."

_SAID: dict[Kind, _Said] = {
    "repository query": _Said(
        (f"{_API}/",),
        "the names of public repositories, `user/repo`, sorted",
        "Everybody.",
        {rules.JSON_TYPE: ref("schemas", "FoundRepositories")},
        queries=(
            _query("q", {"type": "string"}, "In the name, in any case.") | {"required": True},
            _query("n", text(rules.NUMBER_PATTERN), f"How many at most; up to {rules.MAX_PAGE}."),
            _query("last", {"type": "string"}, "Only those after this name."),
        ),
        headers=("Link",),
        readers="all",
    ),
    "user": _Said(
        (f"{_API}/{{user}}",),
        "a user's record, or the names of the user's repositories",
        "The user alone, scope `drawbridge_users`. Everybody sees which repositories are public;"
        " which there are, the user alone, scope `drawbridge_repositories`.",
        {rules.JSON_TYPE: {"oneOf": [ref("schemas", "User"), ref("schemas", "RepositoryNames")]}},
        {rules.JSON_TYPE: ref("schemas", "User")},
        queries=(_query("repositories", _FLAG, "Ask for the names of repositories instead."),),
        readers="all",
    ),
    "repository": _Said(
        (_REPO,),
        "a repository's configuration",
        "The user alone, scope `drawbridge_repositories`.",
        {rules.JSON_TYPE: ref("schemas", "Repository")},
        {rules.JSON_TYPE: ref("schemas", "Repository")},
        readers="nobody",
    ),
    "repository policy": _Said(
        (f"{_REPO}/_policy",),
        "what holds for a repository, in place of its configuration if that was changed",
        "The user alone, scope `drawbridge_repositories`.",
        {rules.JSON_TYPE: ref("schemas", "Repository")},
        {rules.JSON_TYPE: ref("schemas", "Repository")},
        readers="nobody",
    ),
    "repository tag query": _Said(
        (f"{_REPO}/_tag",),
        "the names of a repository's tags, sorted",
        _READERS,
        {rules.JSON_TYPE: names(TAG_PATTERN, MAX_TAG_NAME)},
        queries=(
            _query("n", text(rules.NUMBER_PATTERN), "How many at most."),
            _query("last", {"type": "string"}, "Only those after this name."),
            _query(
                "latest",
                _FLAG,
                "Only the highest version that was not yanked, a release before any pre-release.",
            ),
        ),
        headers=("Link",),
    ),
    "tag": _Said(
        (_TAG,),
        "a tag: the entry of its tree's root, alone or signed",
        _OF_TAGS,
        {ENTRY_TYPE: ref("schemas", "Entry"), JWS_TYPE: ref("schemas", "SignedTag")},
        {ENTRY_TYPE: ref("schemas", "Entry"), JWS_TYPE: ref("schemas", "SignedTag")},
        digest=True,
        headers=("Garrison-Yanked",),
    ),
    "tag yank": _Said(
        (f"{_TAG}/yank",),
        "the mark that a tag should not be used any more, which may be removed",
        _OF_TAGS,
        {rules.JSON_TYPE: ref("schemas", "Yank")},
        {rules.JSON_TYPE: ref("schemas", "Yank")},
    ),
    "tag tree": _Said(
        (f"{_TAG}/tree", f"{_TAG}/tree/{{path}}"),
        "a directory or file of a tag's tree",
        _OF_TAGS + " It must be what its directory, or for the root the tag, lists.",
        {DIRECTORY_TYPE: ref("schemas", "Directory"), _ANY: {}},
        {DIRECTORY_TYPE: ref("schemas", "Directory"), _ANY: {}},
        digest=True,
        headers=("Accept-Ranges", "Content-Range"),
    ),
}

_ITEM = "|".join(ALGORITHMS)
_DIGEST_PATTERN = (
    rf"(?:(?:{_ITEM})=:[A-Za-z0-9+/]+={{0,2}}:, *)*(?:{_ITEM})=:[A-Za-z0-9+/]+={{0,2}}:"
)

# Headers of answers.
_HEADERS: dict[str, tuple[str, Json]] = {
    "X-Request-ID": ("Under which the log knows the request.", text("[0-9a-f]{16}")),
    "Content-Digest": ("All four digests of the whole body.", text(_DIGEST_PATTERN)),
    "Content-Length": ("Bytes of the body.", COUNT),
    "ETag": ("The SHA-256 of the whole body, in hex.", text('"[0-9a-f]{64}"')),
    "Accept-Ranges": ("Parts of it can be had.", {"const": "bytes"}),
    "Content-Range": (
        "Which part this is; with 416, how much there is.",
        text(r"bytes (?:\d+-\d+|\*)/\d+"),
    ),
    "Link": ("Where the next page is.", text('<.+>; rel="next"')),
    "Garrison-Yanked": ("Why the tag was yanked, percent-encoded.", {"type": "string"}),
    "Allow": ("The methods that there are.", {"type": "string"}),
    "WWW-Authenticate": ("How to log in.", {"const": "Bearer"}),
    "Retry-After": ("Seconds until it may be tried again.", COUNT),
    "Cache-Control": ("Refusals are not kept.", {"const": "no-store"}),
}

# Refusals: what they mean, and their headers.
_REFUSED: dict[int, tuple[str, tuple[str, ...]]] = {
    400: ("The request, or a name or a document in it, is malformed.", ()),
    401: ("Nobody, or somebody else, is logged in.", ("WWW-Authenticate",)),
    404: ("It does not exist, or may not be known to exist; or there is no such route.", ()),
    405: ("The method has no meaning here.", ("Allow",)),
    408: ("The request does not arrive in time.", ()),
    409: ("It exists already: nothing that exists is changed.", ()),
    412: ("`If-Match` or `If-None-Match` expects something else.", ()),
    413: ("The body is too long.", ()),
    415: ("A document of another media type is expected.", ()),
    422: ("The document is JSON, and not of the form that is expected.", ()),
    416: ("No byte is in the range.", ("Content-Range",)),
    431: ("The headers are too long, or too many.", ()),
    500: ("The store fails.", ()),
    501: (f"The API is newer than {'.'.join(map(str, SERVER_VERSION))}.", ()),
    503: ("The issuer of tokens, or the service, cannot answer now.", ("Retry-After",)),
}
# Whatever is asked for: no HTTP, too late, too long, or too much at once.
_OF_ANY_REQUEST = (400, 408, 431, 503)
_ALWAYS = (*_OF_ANY_REQUEST, 401, 404, 405, 500, 501)
_WHEN_GOT = (412,)
_WHEN_PUT = (409, 412, 413, 415, 422)
_WHEN_REMOVED = (412,)

# What GET and HEAD may ask for.
_CONDITIONS = {
    "If-None-Match": "Entity tags, or `*`: no body if it is one of them.",
    "If-Match": "Entity tags, or `*`: 412 unless it is one of them.",
}
# What PUT and DELETE may demand.
_DEMANDS = {
    "If-None-Match": "Entity tags, or `*` for anything: 412 if that is there.",
    "If-Match": "Entity tags, or `*` for anything: 412 unless that is there.",
}
_PART = {
    "Range": "One range of bytes.",
    "If-Range": "The entity tag for which the range holds; else the whole is answered.",
}


def _answer_headers(*names: str) -> Json:
    return {name: ref("headers", name) for name in ("X-Request-ID", *names)}


def _refusal(status: int) -> Json:
    what, headers = _REFUSED[status]
    return {
        "description": what,
        "headers": _answer_headers("Cache-Control", *headers),
        "content": {
            "text/plain": {"schema": {"type": "string"}},
            PROBLEM_JSON: {"schema": ref("schemas", "Problem")},
        },
    }


def _refusals(*statuses: int) -> Json:
    return {str(status): ref("responses", str(status)) for status in sorted(statuses)}


def _sent_header(name: str, what: str, schema: Json, *, required: bool = False) -> Json:
    return {
        "name": name,
        "in": "header",
        "description": what,
        "required": required,
        "schema": schema,
    }


def _get(kind: Kind, said: _Said, *, head: bool) -> Json:
    """The operation that gets `said`, or with `head` only what there is to say of it."""
    body: Json = {}
    if not head:
        body = {"content": {media: {"schema": schema} for media, schema in said.got.items()}}
    headers = ("Content-Digest", "Content-Length", "ETag", *said.headers)
    answers: Json = {
        "200": {
            "description": "It.",
            "headers": _answer_headers(*(name for name in headers if name != "Content-Range")),
            **body,
        },
        "304": {
            "description": "It is what the client has already.",
            "headers": _answer_headers(*headers),
        },
    }
    asked = dict(_CONDITIONS)
    refused = {*_ALWAYS, *_WHEN_GOT}
    if kind == "tag tree" and not head:
        asked |= _PART
        refused.add(416)
        answers["206"] = {
            "description": "The part of it that was asked for.",
            "headers": _answer_headers(*headers),
            "content": {_ANY: {}},
        }
    return {
        "summary": f"{'Ask for' if head else 'Get'} {said.what}.",
        "description": said.access,
        "parameters": [
            *(() if head and kind != "user" else said.queries),
            *(_sent_header(name, what, {"type": "string"}) for name, what in asked.items()),
        ],
        "security": [*_FOR[said.readers], {"user": []}],
        "responses": answers | _refusals(*refused),
    }


def _put(kind: Kind, said: _Said) -> Json:
    answers: Json = {
        "201": {"description": "Created.", "headers": _answer_headers("Content-Length")}
    }
    if kind == "repository policy":
        answers["200"] = {"description": "Replaced.", "headers": _answer_headers("Content-Length")}
    return {
        "summary": f"Create {said.what}.",
        "description": said.access,
        "parameters": [
            _sent_header(
                "Content-Digest",
                "Digests of the body; all that are given are checked.",
                text(_DIGEST_PATTERN),
                required=said.digest,
            ),
            _sent_header("Content-Length", "Bytes of the body.", COUNT, required=True),
            *(_sent_header(name, what, {"type": "string"}) for name, what in _DEMANDS.items()),
        ],
        "requestBody": {
            "required": True,
            "content": {media: {"schema": schema} for media, schema in said.put.items()},
        },
        "security": [{"user": []}],
        "responses": answers | _refusals(*_ALWAYS, *_WHEN_PUT),
    }


def _delete(said: _Said) -> Json:
    return {
        "summary": f"Remove {said.what}.",
        "description": said.access,
        "parameters": [
            _sent_header(name, what, {"type": "string"}) for name, what in _DEMANDS.items()
        ],
        "security": [{"user": []}],
        "responses": {
            "204": {
                "description": "It is not there, or not any more.",
                "headers": _answer_headers(),
            }
        }
        | _refusals(*_ALWAYS, *_WHEN_REMOVED),
    }


def _operation(kind: Kind, said: _Said, method: str) -> Json:
    if method == "PUT":
        return _put(kind, said)
    if method == "DELETE":
        return _delete(said)
    return _get(kind, said, head=method == "HEAD")


def _path_parameters(path: str) -> list[Json]:
    return [ref("parameters", name) for name in _PATH if f"{{{name}}}" in path]


def _paths() -> Json:
    paths: Json = {
        "/health": {
            method.lower(): {
                "summary": "Ask whether it lives.",
                "responses": {
                    "200": {
                        "description": "It does.",
                        "headers": _answer_headers("Content-Length"),
                    }
                }
                | _refusals(*_OF_ANY_REQUEST),
            }
            for method in HEALTH_METHODS
        },
        PATH: {
            method.lower(): {
                "summary": "Get this document.",
                "responses": {
                    "200": {
                        "description": "It.",
                        "headers": _answer_headers("Content-Digest", "Content-Length", "ETag"),
                        **(
                            {"content": {rules.JSON_TYPE: {"schema": {"type": "object"}}}}
                            if method == "GET"
                            else {}
                        ),
                    },
                    "304": {
                        "description": "It is what the client has already.",
                        "headers": _answer_headers("Content-Digest", "ETag"),
                    },
                }
                | _refusals(*_OF_ANY_REQUEST, 405, 412),
                "parameters": [
                    _sent_header(name, what, {"type": "string"})
                    for name, what in _CONDITIONS.items()
                ],
            }
            for method in DOCUMENT_METHODS
        },
    }
    for kind, said in _SAID.items():
        for path in said.paths:
            paths[path] = {
                "parameters": _path_parameters(path),
                **{method.lower(): _operation(kind, said, method) for method in METHODS[kind]},
            }
    return paths


def document() -> Json:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Drawbridge",
            "version": ".".join(map(str, SERVER_VERSION)),
            "summary": "A registry of workloads: content-addressed trees under immutable tags.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        # Beside the document.
        "servers": [{"url": "/"}],
        "paths": _paths(),
        "components": {
            "parameters": {
                name: {
                    "name": name,
                    "in": "path",
                    "required": True,
                    "description": what,
                    "schema": schema,
                }
                for name, (what, schema) in _PATH.items()
            },
            "headers": {
                name: {"description": what, "schema": schema}
                for name, (what, schema) in _HEADERS.items()
            },
            "responses": {str(status): _refusal(status) for status in _REFUSED},
            "schemas": schemas(),
            "securitySchemes": {
                "user": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An OpenID Connect access token, with scopes"
                    " `{read|write|manage}:drawbridge_{users|repositories|tags}`.",
                },
                "keep": {
                    "type": "mutualTLS",
                    "description": "A certificate that a steward gave to a keep, or to itself.",
                },
            },
        },
    }


@cache
def served() -> bytes:
    """The document, as it is served."""
    return json.dumps(document(), separators=(",", ":")).encode()
