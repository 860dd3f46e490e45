"""The REST API described: its OpenAPI document, and a page that shows it without the internet."""

from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute

from engineshed.gateway.controlplane.schemas import Problem

PROBLEM: Final = "application/problem+json"

_ABOUT: Final = """
Dedicated inference endpoints for fine-tuned checkpoints. Send an API token with every request:
`Authorization: Bearer es_…`. Errors are problems as RFC 9457 has them; 503 says in `Retry-After`
when to come back.

Inference is OpenAI's API on the same address: `POST /v1/chat/completions`, `POST /v1/completions`
and `GET /v1/models`, with an endpoint's `routing_key` as `model`; its errors have OpenAI's shape.
"""
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {
        "model": Problem,
        "description": "The request cannot be served: 400 malformed, 401 no valid token, 403 not "
        "allowed, 404 no such object, 409 its state or the capacity refuses, 412 the etag is "
        "another, 413 too large, 415 no JSON, 422 invalid, 429 too many.",
    },
    "5XX": {"model": Problem, "description": "503: a part is away for now; 500: our mistake."},
}


class DescribedApi(FastAPI):
    """The framework's application, with this API's description."""

    def __init__(self) -> None:
        super().__init__(
            title="Engineshed",
            version=version("engineshed"),
            description=_ABOUT,
            responses=_ERRORS,
            generate_unique_id_function=_operation_id,
            docs_url=None,
            redoc_url=None,
        )
        page = Path(__file__).with_name("docs.html").read_text()
        self.add_route("/docs", lambda _: HTMLResponse(page), include_in_schema=False)

    def openapi(self) -> dict[str, Any]:
        """Return the document; what the framework cannot say of errors is put right here."""
        if self.openapi_schema is None:
            for operation in _operations(super().openapi()):
                for status in _ERRORS:
                    content = operation["responses"][status]["content"]
                    content[PROBLEM] = content.pop("application/json")
        assert self.openapi_schema is not None, "made above"
        return self.openapi_schema


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def _operation_id(route: APIRoute) -> str:
    return route.name
