"""What the OpenAPI document says of publishing, which no framework answers. Written from the same types."""

from http import HTTPStatus
from typing import Any

import msgspec

from broker.api.bodies import Failed, Publish, Published, Results
from broker.api.problems import PROBLEMS, ProblemDocument
from broker.protocol.commands import MAX_MESSAGE_ID_CHARACTERS

_REF = "#/components/schemas/{name}"
_PAYLOAD_CODES = (
    "bad_request",
    "not_authenticated",
    "not_permitted",
    "too_large",
    "unsupported_type",
    "wrong_payload_kind",
    "wrong_host",
    "bad_field",
    "bad_channel",
    "bad_payload",
    "rate_limited",
    "internal_error",
    "engine_unavailable",
    "overloaded",
    "outcome_unknown",
)


def with_publishing(document: dict[str, Any]) -> dict[str, Any]:
    """`document` with the two operations that publish."""
    types = (Published, Failed, ProblemDocument)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    published, failed, problem = schemas
    publish = {"$ref": _REF.format(name="Publish")}
    # By hand: structs of a union would have to carry tags.
    results = {
        "title": "Results",
        "description": Results.__doc__,
        "type": "object",
        "properties": {"results": {"type": "array", "items": {"anyOf": [published, failed]}}},
        "required": ["results"],
    }
    # By hand, too: of each row exactly one, which a struct cannot say, and `data` has no default.
    components["Publish"] = {
        "title": "Publish",
        "description": Publish.__doc__,
        "type": "object",
        "properties": {
            "channel": {"type": "string", "description": "A channel name.", "examples": ["news"]},
            "channels": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "data": {"description": "Any JSON value."},
            "text": {"type": "string"},
            "base64": {"type": "string", "contentEncoding": "base64"},
            "message_id": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_MESSAGE_ID_CHARACTERS,
                "description": "A repeated id of a channel publishes once, for five minutes.",
            },
        },
        "additionalProperties": False,
        "allOf": [_one_of("channel", "channels"), _one_of("data", "text", "base64")],
    }
    document["components"].setdefault("schemas", {}).update(components)
    binary = {"type": "string", "format": "binary"}
    document["paths"]["/v1/publish"] = {
        "post": {
            "operationId": "publish",
            "summary": "Publish a message, to one channel or several, or a batch",
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"anyOf": [publish, {"type": "array", "items": publish}]},
                        "example": {"channel": "news", "text": "hello"},
                    }
                },
            },
            "responses": _responses({"anyOf": [published, results]}, problem, "bad_json"),
            "security": document["security"],
        }
    }
    document["paths"]["/v1/channels/{channel}/messages"]["post"] = {
        "operationId": "publishPayload",
        "summary": "Publish the body of the request as it stands",
        "parameters": [
            {
                "name": "channel",
                "in": "path",
                "required": True,
                "schema": {"type": "string"},
                "description": "A channel name, percent-encoded.",
            },
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "minLength": 1, "maxLength": MAX_MESSAGE_ID_CHARACTERS},
                "description": "The message's message_id.",
            },
        ],
        "requestBody": {
            "required": False,
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "application/json": {"schema": {}},
                "application/octet-stream": {"schema": binary},
            },
        },
        "responses": _responses(published, problem),
        "security": document["security"],
    }
    return document


def _one_of(*names: str) -> dict[str, Any]:
    return {"oneOf": [{"required": [name]} for name in names]}


def _responses(schema: dict[str, Any], problem: dict[str, Any], *codes: str) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in (*_PAYLOAD_CODES, *codes):
        by_status.setdefault(PROBLEMS[code][0], []).append(code)
    responses: dict[str, Any] = {
        "200": {"description": "Published", "content": {"application/json": {"schema": schema}}}
    }
    for status, found in sorted(by_status.items()):
        responses[str(status)] = {
            "description": f"{HTTPStatus(status).phrase}; code {' or '.join(found)}",
            "content": {"application/problem+json": {"schema": problem}},
        }
    return responses
