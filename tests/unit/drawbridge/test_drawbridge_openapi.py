"""The OpenAPI document: it is one, says all that the routes know, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from garrison.drawbridge import openapi
from garrison.drawbridge.refusals import STATUSES
from garrison.drawbridge.routes import METHODS, parse
from garrison.service.problem import STATUSES as FAMILIES

if TYPE_CHECKING:
    from garrison.testing.drawbridge import MemoryDrawbridge

# A good name for each parameter.
NAMES = {"version": "0.1.0", "user": "jane", "repo": "chat", "tag": "1.0.0", "path": "sub/data"}
DOCUMENT = openapi.document()
VERBS = {"get", "head", "put", "post", "delete", "options", "patch", "trace"}


def test_it_is_served(drawbridge: MemoryDrawbridge) -> None:
    found = drawbridge.request("GET", "/openapi.json")
    assert (found.status, found.headers["content-type"]) == (200, "application/json")
    assert json.loads(found.body) == DOCUMENT
    asked = {"if-none-match": found.headers["etag"]}
    assert drawbridge.request("GET", "/openapi.json", headers=asked).status == 304
    assert drawbridge.request("HEAD", "/openapi.json").headers == found.headers
    refused = drawbridge.request("PUT", "/openapi.json")
    assert (refused.status, refused.headers["allow"]) == (405, "HEAD, GET")


def test_it_has_every_route_and_method() -> None:
    """And the routes have every one of it."""
    stated: dict[str, set[str]] = {}
    for path, item in DOCUMENT["paths"].items():
        methods = {verb.upper() for verb in VERBS & set(item)}
        if path in {"/health", openapi.PATH}:
            continue
        kind = parse(path.format_map(NAMES)).kind
        assert stated.setdefault(kind, methods) == methods
    assert stated == {kind: set(methods) for kind, methods in METHODS.items()}
    assert {"/health", openapi.PATH} < set(DOCUMENT["paths"])


def test_it_has_every_status(drawbridge: MemoryDrawbridge) -> None:
    raised = {status for _, status in STATUSES} | {status for _, status, _ in FAMILIES}
    # A rejection is 401, 404, 409 or 412 here, never the family's own.
    assert raised - {403} == {int(status) for status in DOCUMENT["components"]["responses"]}


def _references(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*(_references(item) for item in value))
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if "$ref" in value else set()
    return own.union(*(_references(item) for item in value.values()))


def test_what_it_refers_to_is_there_and_used() -> None:
    components = {
        f"#/components/{kind}/{name}"
        for kind, named in DOCUMENT["components"].items()
        if kind != "securitySchemes"
        for name in named
    }
    assert _references(DOCUMENT) == components


def test_parameters_of_paths_are_stated() -> None:
    for path, item in DOCUMENT["paths"].items():
        stated = {parameter["$ref"].rpartition("/")[2] for parameter in item.get("parameters", ())}
        assert stated == {name for name in NAMES if f"{{{name}}}" in path}


@pytest.mark.parametrize("path", sorted(DOCUMENT["paths"]))
def test_every_header_of_an_answer_is_stated(drawbridge: MemoryDrawbridge, path: str) -> None:
    """Of what is there, and of what is not; the server's own come on top."""
    for repo in ("chat", "none"):
        place = path.format_map(NAMES | {"repo": repo}) + ("?q=" if path.endswith("}/") else "")
        for verb in VERBS & {"get", "head", "delete"} & set(DOCUMENT["paths"][path]):
            answer = drawbridge.request(verb.upper(), place, user="jane")
            stated = DOCUMENT["paths"][path][verb]["responses"][str(answer.status)]
            if "$ref" in stated:
                stated = DOCUMENT["components"]["responses"][str(answer.status)]
            known = {name.lower() for name in stated.get("headers", ())}
            assert set(answer.headers) - {"content-type", "content-length"} <= known


def test_what_is_said_to_need_a_token_needs_one_and_the_rest_does_not(
    drawbridge: MemoryDrawbridge,
) -> None:
    """Of a public repository; of what is for everybody somewhere, a user's names are."""
    needed = {}
    for path, item in DOCUMENT["paths"].items():
        place = path.format_map(NAMES)
        if path.endswith("}/"):
            place += "?q="
        elif path.endswith("{user}"):
            place += "?repositories"
        for verb in VERBS & set(item):
            security = item[verb].get("security", [{}])
            needed[verb, path] = {} not in security
            headers = {"content-length": "0", "content-type": "application/json"}
            headers["content-digest"] = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
            status = drawbridge.request(verb.upper(), place, headers=headers).status
            assert (status == 401) == needed[verb, path], (verb, path, status)
    assert set(needed.values()) == {True, False}


def test_every_path_has_the_refusals_of_any_request() -> None:
    """Those that are given before anybody looks where a request goes."""
    for item in DOCUMENT["paths"].values():
        for verb in VERBS & set(item):
            assert {"400", "408", "431", "503"} <= set(item[verb]["responses"])
