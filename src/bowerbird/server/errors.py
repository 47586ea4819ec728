"""Errors as answers: one shape a face.  OpenAI's is ours too; AUTOMATIC1111's clients know another."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from bowerbird.errors import BowerbirdError
from bowerbird.faults import Fault, first_fault
from bowerbird.jobs.asking import SizeError
from bowerbird.jobs.job import JobError
from bowerbird.jobs.queue import QueueFull, UnknownJob


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """What every error looks like."""

    error: ErrorDetail


class ApiError(Exception):
    """An answer that is an error.  param: the field that is wrong; code: a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
        self.headers = headers or {}


# How a job's failure, or an error of the house, is said over HTTP; what is not listed is a fault of ours.
_STATUS = {"ResourceError": 503, "MissingExtraError": 501, "InternalError": 500, "RunError": 409}
_OF_THE_CLIENT = {"RequestError", "ModelError", "UnsafeFileError", "RecipeError", "PictureFolderError"}
USELESS_TO_RETRY = {"x-should-retry": "false"}  # OpenAI's client would ask twice more

# For the OpenAPI document: every route may answer these.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": words}
    for status, words in {
        400: "Something asked for is impossible; the message says what.",
        401: "The key is missing or wrong.",
        403: "The call comes from a page of another site.",
        404: "There is nothing of that name.",
        409: "Another training holds that run.",
        413: "The body is too large.",
        429: "The queue is full; Retry-After says when to ask again.",
        500: "A fault of the server.",
        501: "An optional part is not installed.",
        503: "The server cannot work just now.",
    }.items()
}


def of_job(error: JobError) -> ApiError:
    """A failed job's error as an answer."""
    status = _STATUS.get(error.kind, 400 if error.kind in _OF_THE_CLIENT else 500)
    headers = {"Retry-After": "5"} if status == 503 else USELESS_TO_RETRY
    code = {"ModelError": "model_not_usable", "InternalError": "internal_error"}.get(error.kind)
    return ApiError(status, error.message, code=code, headers=headers)


def of_house(error: BowerbirdError) -> ApiError:
    """An error that a face met itself."""
    if isinstance(error, QueueFull):
        return ApiError(
            429, str(error), code="rate_limit_exceeded", kind="rate_limit_error", headers={"Retry-After": str(error.retry_after_seconds)}
        )
    if isinstance(error, SizeError):
        return ApiError(400, str(error), param="size", code="invalid_size")
    if isinstance(error, UnknownJob):
        return ApiError(404, str(error), code="job_not_found")
    return of_job(JobError(kind=type(error).__name__, message=str(error)))


def of_fields(fault: Fault) -> ApiError:
    """Fields that are not what a route takes, in OpenAI's words where it has some."""
    param = fault.where.partition(".")[0][:80]
    match fault.kind:
        case "json_invalid":
            return ApiError(400, "the body is not JSON. Send application/json.", code="invalid_json")
        case "extra_forbidden":
            return ApiError(400, f"Unknown parameter: '{fault.where:.80}'.", param=fault.where[:80], code="unknown_parameter")
        case "missing" if param:
            return ApiError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
        case _ if not fault.where:
            return ApiError(400, f"the body is not what this route takes: {fault.words}.", code="invalid_body")
    return ApiError(400, f"{fault}.", param=param, code="invalid_value")


def answer(error: ApiError, path: str = "") -> JSONResponse:
    """The error in the shape that the clients of this path expect."""
    if path.startswith("/sdapi/"):
        body: dict[str, Any] = {"error": error.kind, "detail": error.message, "body": "", "errors": error.message}
    else:
        detail = ErrorDetail(message=error.message, type=error.kind, param=error.param, code=error.code)
        body = {"error": detail.model_dump()}
    return JSONResponse(body, error.status, error.headers)


def install(app: FastAPI) -> None:
    """Every error that leaves the app has our shape, FastAPI's and Starlette's own among them."""

    @app.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> JSONResponse:
        return answer(error, request.url.path)

    @app.exception_handler(BowerbirdError)
    async def _house(request: Request, error: BowerbirdError) -> JSONResponse:
        return answer(of_house(error), request.url.path)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        inside = [{**each, "loc": each["loc"][1:]} for each in error.errors()]  # of the body, the query or the path
        return answer(of_fields(first_fault(inside)), request.url.path)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        message = {404: f"there is nothing at {request.url.path!r:.200}", 405: f"{request.method} is not possible here"}
        code = {404: "unknown_route", 405: "method_not_allowed"}.get(error.status_code)
        words = message.get(error.status_code) or str(error.detail) or "the request is not possible"
        return answer(ApiError(error.status_code, f"{words}.", code=code, headers=dict(error.headers or {})), request.url.path)

    @app.exception_handler(Exception)
    async def _fault(request: Request, error: Exception) -> JSONResponse:
        return answer(ApiError(500, f"this is a fault of the server ({type(error).__name__}); its log has it."), request.url.path)
