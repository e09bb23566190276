"""The OpenAPI description: what may be sent, and what may come back."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from cotune.serving.chat_request import ChatRequest

_REFERENCE = "#/components/schemas/{model}"
_ERRORS = {
    400: "the request is wrong",
    401: "no key, or a wrong one",
    403: "called under another name or from another site's page",
    404: "there is no such model",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is no JSON",
    429: "too much to do",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def describe(app: FastAPI, model: str, *, key: bool) -> None:
    """Let an application describe itself: the body it reads by hand, its errors, and the key if it asks for one."""

    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            app.openapi_schema = _completed(made, model, key)
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]


def _completed(made: dict[str, Any], model: str, key: bool) -> dict[str, Any]:
    body = ChatRequest.model_json_schema(ref_template=_REFERENCE)
    body["properties"]["model"]["enum"] = [model]
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    schemas |= body.pop("$defs", {}) | {"ChatRequest": body, "Error": _ERROR}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path, methods in made["paths"].items():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            operation["responses"] |= _errors() if path.startswith("/v1/") else {"403": _errors()["403"]}
            if path == "/metrics":
                operation["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    completions = made["paths"]["/v1/chat/completions"]["post"]
    completions["requestBody"] = {"required": True, "content": {"application/json": {"schema": _named("ChatRequest")}}}
    completions["responses"]["200"]["content"] = {
        "application/json": {"schema": {"type": "object"}},
        "text/event-stream": {},  # chunks as OpenAI's, which its own description has
    }
    if key:
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"key": []}]
    return made


def _named(schema: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=schema)}


def _errors() -> dict[str, Any]:
    return {
        str(status): {"description": said, "content": {"application/json": {"schema": _named("Error")}}}
        for status, said in _ERRORS.items()
    }
