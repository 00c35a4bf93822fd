"""The schemas of the OpenAPI document: what the bodies of requests and answers are."""

from __future__ import annotations

from typing import Any

from garrison.drawbridge import rules
from garrison.formats.content_digest import ALGORITHMS
from garrison.formats.slug import REPO_PATTERN, USER_PATTERN
from garrison.formats.tree import NAME_PATTERN

Json = dict[str, Any]
COUNT: Json = {"type": "integer", "minimum": 0}


def text(pattern: str, longest: int | None = None) -> Json:
    """A text all of which has the form of `pattern`."""
    schema: Json = {"type": "string", "pattern": f"^{pattern}$"}
    return schema if longest is None else schema | {"maxLength": longest}


def _object(properties: Json, required: list[str] | None = None) -> Json:
    schema: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema if required is None else schema | {"required": required}


def ref(kind: str, name: str) -> Json:
    """Where the document's component `name` of that `kind` is."""
    return {"$ref": f"#/components/{kind}/{name}"}


def names(pattern: str, longest: int | None = None) -> Json:
    """A list of texts as `text` makes them."""
    return {"type": "array", "items": text(pattern, longest)}


def schemas() -> Json:
    """The schemas by their names."""
    digests = {
        name: text(r"[A-Za-z0-9+/]+={0,2}") | {"contentEncoding": "base64"} for name in ALGORITHMS
    }
    found: Json = {"type": ["string", "null"]}
    check = _object(dict.fromkeys(("check", "found", "expected", "remedy"), found))
    return {
        "User": _object(
            {"subject": {"type": "string", "minLength": 1, "maxLength": rules.MAX_SUBJECT}},
            ["subject"],
        ),
        "RepositoryNames": names(REPO_PATTERN),
        "FoundRepositories": names(f"{USER_PATTERN}/{REPO_PATTERN}"),
        "Repository": _object(
            {
                "public": {"type": "boolean"},
                "keeps": {
                    "type": "array",
                    "maxItems": rules.MAX_KEEPS,
                    "items": ref("schemas", "KeepRule"),
                },
            },
            ["public"],
        ),
        "KeepRule": _object(
            {
                "tee": text(rules.TEE_PATTERN),
                "measurement": text(rules.MEASUREMENT_PATTERN),
                "slug": {"type": "string"},
                "digest": {"type": "string"},
            }
        )
        | {"minProperties": 1},
        "Yank": _object(
            {"reason": {"type": "string", "minLength": 1, "maxLength": rules.MAX_REASON}},
            ["reason"],
        ),
        "Entry": {
            "type": "object",
            "description": "What a name stands for. Members that are not stated here are kept.",
            "properties": {
                "digest": _object(digests) | {"minProperties": 1},
                "length": COUNT,
                "type": {"type": "string"},
            },
            "required": ["digest", "length", "type"],
        },
        "Directory": {
            "type": "object",
            "description": "Name to entry: minified, with sorted keys.",
            "propertyNames": text(NAME_PATTERN),
            "additionalProperties": ref("schemas", "Entry"),
        },
        "SignedTag": {
            "type": "object",
            "description": "A JWS in its JSON serialization, whose payload is an entry.",
            "properties": {"payload": text("[A-Za-z0-9_-]*")},
            "required": ["payload"],
        },
        "Problem": {
            "type": "object",
            "description": "RFC 9457.",
            "properties": {
                "type": {"type": "string"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "instance": {"type": "string"},
                "checks": {"type": "array", "items": check},
            },
            "required": ["type", "title", "status", "detail", "checks"],
        },
    }
