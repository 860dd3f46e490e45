"""Waiting for what takes long, while the platform may be away for a moment."""

import io

import pytest
from rich.console import Console

from engineshed.cli import progress
from engineshed.cli.client import ApiError, Client, Connection, Json


class Answers(Client):
    """A platform that gives these answers, one after the other."""

    def __init__(self, *answers: Json | ApiError) -> None:
        super().__init__(Connection("http://127.0.0.1:1", "es_token"))
        self._answers = list(answers)

    def get(self, path: str, **query: str | int | bool) -> Json:
        answer = self._answers.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.0)


def wait(*answers: Json | ApiError) -> Json:
    console = Console(file=io.StringIO())
    return progress.wait_for_endpoint(Answers(*answers), "ep_1", "running", console)


def endpoint(status: str) -> Json:
    return {"status": status, "status_reason": "", "replicas": []}


def test_a_part_that_is_away_for_a_moment_is_waited_for() -> None:
    away = ApiError("the catalog cannot be reached", 503), ApiError("cannot reach it")

    assert wait(endpoint("queued"), *away, endpoint("running"))["status"] == "running"


def test_one_that_stays_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", -1.0)

    with pytest.raises(ApiError, match="cannot reach"):
        wait(ApiError("cannot reach it"))


def test_a_refusal_is_told_at_once() -> None:
    with pytest.raises(ApiError, match="no such endpoint"):
        wait(ApiError("no such endpoint", 404))


def test_one_that_has_no_replica_while_nobody_uses_it_is_waited_for_until_it_is_idle() -> None:
    assert wait(endpoint("provisioning"), endpoint("idle"))["status"] == "idle"


def test_a_rollout_is_done_when_an_endpoint_is_idle() -> None:
    answers = Answers(endpoint("idle") | {"rollout": None})
    found = progress.wait_for_rollout(answers, "ep_1", Console(file=io.StringIO()))
    assert found["status"] == "idle"


def node(status: str, *holders: str | None) -> Json:
    return {"status": status, "gpus": [{"replica_id": one} for one in holders]}


def drain(*answers: Json | ApiError) -> tuple[Json, str]:
    console = Console(file=io.StringIO())
    found = progress.wait_for_drain(Answers(*answers), "node_1", console)
    return found, console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_a_drain_is_waited_for_until_nobody_is_left() -> None:
    empty = node("draining", None, None)
    away = ApiError("the scheduler cannot be reached", 503)
    found, shown = drain(
        node("draining", "rep_1", "rep_2"), away, node("lost", "rep_1", "rep_1"), empty
    )
    assert found == empty
    assert "draining: 0 of 2 replicas are still there" in shown


def test_a_drain_that_somebody_ended_is_waited_for_no_longer() -> None:
    with pytest.raises(ApiError, match="the node is joined; it is not being drained any more"):
        drain(node("draining", "rep_1"), node("joined", "rep_1"))
