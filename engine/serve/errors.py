"""Errors that only the server knows, and the one JSON shape every error has on the wire.

`{"error": {"code", "type", "message", "param", "data"}}`: `type` repeats `code` and `param` names the field at
fault, as clients of the OpenAI API expect. Knows nothing of the engine but its error classes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from engine.errors import EngineError, InvalidRequestError, ModelNotFoundError

logger = logging.getLogger(__name__)


class UnauthorizedError(EngineError):
    """The bearer token is missing or wrong."""

    code = "unauthorized"
    status = 401


class ForbiddenHostError(EngineError):
    """The Host header is none of this host's names: a web page may be behind the request (DNS rebinding)."""

    code = "forbidden_host"
    status = 403


class UnknownRouteError(EngineError):
    """No such path."""

    code = "unknown_route"
    status = 404


class MethodNotAllowedError(EngineError):
    """The path exists, but not with this method."""

    code = "method_not_allowed"
    status = 405


class BodyTooLargeError(EngineError):
    """The request's body exceeds the limit; `data["limit"]` is in bytes."""

    code = "body_too_large"
    status = 413


class TooManyRequestsError(EngineError):
    """More answers or event streams at once than this process serves; `data["limit"]`."""

    code = "too_many_requests"
    status = 429


class InternalError(EngineError):
    """A defect of the engine; the log has the details."""

    code = "internal_error"
    status = 500


class EngineLoadingError(EngineError):
    """The model is still loading; `data["progress"]` is a fraction or null. Try again soon."""

    code = "engine_loading"
    status = 503


class EngineFailedError(EngineError):
    """The model could not be loaded; the message has the reason, `data["cause"]` its code."""

    code = "engine_failed"
    status = 503


class AnswerCancelledError(EngineError):
    """The answer was ended by somebody other than its client, e.g. because its context was deleted."""

    code = "cancelled"
    status = 503


class ClientGoneError(EngineError):
    """The client closed its connection; nobody will read this."""

    code = "client_gone"
    status = 503


_HTTP_ERRORS: dict[int, type[EngineError]] = {404: UnknownRouteError, 405: MethodNotAllowedError}


def error_body(error: EngineError) -> dict[str, Any]:
    """The JSON object of an error, for an HTTP body or a last event in a stream."""
    fields = {
        "code": error.code,
        "type": error.code,
        "message": error.message,
        "param": error.data.get("param"),
        "data": {name: value for name, value in error.data.items() if name != "param"},
    }
    return {"error": fields}


def error_response(error: EngineError) -> JSONResponse:
    headers = {}
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, EngineLoadingError):
        headers["Retry-After"] = "1"
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


def as_engine_error(error: BaseException) -> EngineError:
    """Any exception as a typed error; the untyped ones are defects, so their traceback goes to the log."""
    if isinstance(error, EngineError):
        return error
    logger.error("unexpected error", exc_info=error)
    return InternalError(f"the engine failed unexpectedly: {type(error).__name__}: {error}")


def validation_error(problems: Sequence[Any]) -> InvalidRequestError:
    """Pydantic's complaints as one sentence: `messages[0].role: …; temperature: …`."""
    fields = [{"field": _field(problem["loc"]), "message": _complaint(problem)} for problem in problems]
    text = "; ".join(f"{item['field']}: {item['message']}" if item["field"] else item["message"] for item in fields)
    return InvalidRequestError(text, param=fields[0]["field"] or None, fields=fields)


def install(app: FastAPI) -> None:
    """Give every exception the one JSON shape."""

    @app.exception_handler(EngineError)
    async def on_engine_error(_request: Request, error: EngineError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(validation_error(error.errors()))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.detail, EngineError):
            return error_response(error.detail)
        kind = _HTTP_ERRORS.get(error.status_code, InvalidRequestError)
        return error_response(kind(f"{request.method} {request.url.path}: {error.detail}"))

    @app.exception_handler(Exception)
    async def on_defect(_request: Request, error: Exception) -> JSONResponse:
        return error_response(InternalError(f"the engine failed unexpectedly: {type(error).__name__}: {error}"))


def unknown_model(asked: str, served: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"this engine serves {served!r}, not {asked!r}; leave model out to take it", served=served
    )


def _complaint(problem: dict[str, Any]) -> str:
    if problem["type"] == "json_invalid":
        return f"the body is not valid JSON at character {problem['loc'][-1]}: {problem['ctx']['error']}"
    if problem["type"] in ("model_attributes_type", "dict_type", "missing") and problem["loc"] == ("body",):
        return "the body must be a JSON object, sent with Content-Type: application/json"
    message = str(problem["msg"])
    return message.removeprefix("Value error, ")


def _field(location: Sequence[str | int]) -> str:
    """('body', 'messages', 0, 'role') as messages[0].role; the body itself as an empty string."""
    inner = location[1:] if location and location[0] in ("body", "query", "path", "header") else location
    if len(location) == 2 and location[0] == "body" and isinstance(location[1], int):
        return ""  # where the JSON broke off, not a field
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner).removeprefix(".")
