"""The gateway's REST API, as the commands use it."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from ulid import ULID

DEFAULT_URL: Final = "http://127.0.0.1:8080"
DEFAULT_STATE: Final = ".state"
TIMEOUT_SECONDS: Final = 30.0

Json = dict[str, Any]


class ApiError(Exception):
    """The platform refused, or could not be reached; the message says what to do."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the platform is, and the token to use there."""

    url: str
    token: str


def find_connection() -> Connection:
    """Read ENGINESHED_URL and ENGINESHED_TOKEN, else what `shed up` left in the state directory.

    Raises:
        ApiError: there is no token to be found.
    """
    state = Path(os.environ.get("ENGINESHED_STATE_DIR", DEFAULT_STATE))
    url = os.environ.get("ENGINESHED_URL") or _read(state / "gateway.url") or DEFAULT_URL
    token = os.environ.get("ENGINESHED_TOKEN", "").strip() or _read(state / "admin.token")
    if not token:
        raise ApiError(
            "no token: set ENGINESHED_TOKEN, or ENGINESHED_STATE_DIR to the directory of a running "
            f"stack (looked in {state.absolute()})"
        )
    if not token.isascii():
        raise ApiError("the token has characters that none has; copy it again")
    return Connection(url.strip().rstrip("/"), token)


def find_connection_of(state: Path) -> Connection:
    """Read what `shed up` left in `state`."""
    return Connection(_read(state / "gateway.url"), _read(state / "admin.token"))


class Client:
    """One HTTP connection to a gateway, with a token."""

    def __init__(self, connection: Connection) -> None:
        self.url = connection.url
        self._http = httpx.Client(
            base_url=connection.url,
            headers={"authorization": f"Bearer {connection.token}"},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )

    def get(self, path: str, **query: str | int | bool) -> Json:
        """Return the object at `path`."""
        return self._call("GET", path, params=query)

    def text(self, path: str) -> str:
        """Return what is at `path` and is no JSON."""
        with _explained(self.url):
            answer = self._http.get(path)
        _check(answer)
        return answer.text

    def post(self, path: str, body: Mapping[str, object] | None = None) -> Json:
        """Send `body`; the gateway does it once, however often the request reaches it."""
        return self._call("POST", path, json=body, headers={"idempotency-key": str(ULID())})

    def patch(self, path: str, body: Mapping[str, object]) -> Json:
        """Change an object as `body` says; once, however often the request reaches the gateway."""
        return self._call("PATCH", path, json=body, headers={"idempotency-key": str(ULID())})

    def delete(self, path: str, **query: str | int | bool) -> Json:
        """Delete the object at `path`."""
        return self._call("DELETE", path, params=query)

    def list(self, path: str, **query: str | int | bool) -> list[Json]:
        """Return all objects of a list, page by page."""
        found: list[Json] = []
        token = ""
        while True:
            page = self.get(path, **query, **({"page_token": token} if token else {}))
            found += page["data"]
            token = page.get("next_page_token", "")
            if not token:
                return found

    def follow(self, path: str, **query: str | int | bool) -> Iterator[Json]:
        """Yield what a server-sent stream carries, for ever."""
        with _explained(self.url):
            timeout = httpx.Timeout(TIMEOUT_SECONDS, read=None)
            with self._http.stream(
                "GET", path, params={**query, "follow": "true"}, timeout=timeout
            ) as answer:
                yield from _events(answer)

    def stream(self, path: str, body: Mapping[str, object]) -> Iterator[Json]:
        """Send `body` and yield the chunks of the answer until `[DONE]`."""
        with _explained(self.url):
            timeout = httpx.Timeout(TIMEOUT_SECONDS, read=None)
            with self._http.stream("POST", path, json=body, timeout=timeout) as answer:
                yield from _events(answer)

    def _call(self, method: str, path: str, **arguments: Any) -> Json:  # noqa: ANN401 - httpx's own
        with _explained(self.url):
            answer = self._http.request(method, path, **arguments)
        _check(answer)
        try:
            result: Json = answer.json()
        except ValueError:
            raise ApiError(f"{self.url} answers, but not as Engineshed; is that its URL?") from None
        return result


def _events(answer: httpx.Response) -> Iterator[Json]:
    if answer.is_error:
        answer.read()
    _check(answer)
    for line in answer.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        item: Json = json.loads(data)
        if "error" in item:
            raise ApiError(str(item["error"].get("message", item["error"])))
        yield item


def _check(answer: httpx.Response) -> None:
    if not answer.is_error:
        return
    try:
        body = answer.json()
    except ValueError:
        raise ApiError(f"{answer.status_code}: {answer.text[:500]}", answer.status_code) from None
    if not isinstance(body, dict):
        raise ApiError(f"{answer.status_code}: {answer.text[:500]}", answer.status_code)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise ApiError(
            "the platform does not know this token, or not any more; it came from ENGINESHED_TOKEN "
            "or else from admin.token in ENGINESHED_STATE_DIR",
            answer.status_code,
        )
    error = body.get("error")
    if isinstance(error, dict):  # the data plane's form
        raise ApiError(f"{error['message']} ({error['code']})", answer.status_code)
    detail = str(body.get("detail") or body.get("title") or body)
    fields = [f"{item['field']}: {item['message']}" for item in body.get("errors", [])]
    message = "; ".join([detail, *(field for field in fields if field not in detail)])
    raise ApiError(message, answer.status_code)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise ApiError(
            f"cannot reach {url}: {error or type(error).__name__}. Is the stack up (shed up), and "
            "is ENGINESHED_URL right?"
        ) from error


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
