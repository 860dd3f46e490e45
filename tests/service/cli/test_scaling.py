"""`shed` on how many replicas endpoints have, and on those that have none."""

import json
from typing import Any

import pytest
from tests.service.cli.stand_in import Platform, refusal, shed

ENDPOINT = "ep_01HZZZZZZZZZZZZZZZZZZZZZZZ"


def endpoint(status: str = "idle", *replicas: str, wanted: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "id": ENDPOINT,
        "endpoint_id": ENDPOINT,
        "name": "bot",
        "status": status,
        "status_reason": "",
        "scaling": {"min_replicas": 0, "max_replicas": 2, "idle_after": 300, "wake_timeout": 60},
        "wanted_replicas": wanted,
        "replicas": [{"replica_id": f"rep_{one}", "status": one} for one in replicas],
        "gpu_count": 1,
        "gpu_type": "cpu",
        "routing_key": "bot-a1b2c3",
        "created_at": "2026-01-01T00:00:00Z",
        "rollout": None,
        **more,
    }


def sent(platform: Platform) -> dict[str, Any]:
    body: dict[str, Any] = platform.asked[-1][2]
    return body


@pytest.mark.parametrize(
    ("options", "scaling"),
    [
        (["--min-replicas", "0"], {"min_replicas": 0, "max_replicas": 1}),
        (["--replicas", "2"], {"min_replicas": 2, "max_replicas": 2}),
        (
            ["--min-replicas", "0", "--max-replicas", "3", "--idle-after", "5m"],
            {"min_replicas": 0, "max_replicas": 3, "idle_after": 300},
        ),
        (["--wake-timeout", "0"], {"min_replicas": 1, "max_replicas": 1, "wake_timeout": 0}),
    ],
)
def test_deploy_says_how_many_replicas_there_are_and_when_there_are_none(
    platform: Platform, options: list[str], scaling: dict[str, Any]
) -> None:
    platform.body = endpoint("queued")
    done = shed(platform, "deploy", "acme/bot", *options)
    assert done.returncode == 0, done.stderr
    assert sent(platform)["scaling"] == scaling
    assert done.stderr == ""


@pytest.mark.parametrize("options", [["--idle-after", "soon"], ["--wake-timeout", "60"]])
def test_what_is_no_duration_is_refused_by_its_option(
    platform: Platform, options: list[str]
) -> None:
    done = shed(platform, "deploy", "acme/bot", *options)
    assert done.returncode == 2
    assert options[0] in done.stderr
    assert "90s, 5m or 2h" in done.stderr
    assert platform.asked == []


def test_an_endpoint_that_is_idle_is_deployed_and_the_way_to_wake_it_is_told(
    platform: Platform,
) -> None:
    platform.body = endpoint("idle")
    arguments = ("deploy", "acme/bot", "--min-replicas", "0", "--wait", "-o", "json")
    done = shed(platform, *arguments)
    assert done.returncode == 0
    assert json.loads(done.stdout)["status"] == "idle"
    assert "the first request wakes it: shed chat bot-a1b2c3" in done.stderr


def test_a_stopped_endpoint_without_replicas_of_its_own_is_restarted_when_it_is_idle(
    platform: Platform,
) -> None:
    platform.body = endpoint("idle")
    assert shed(platform, "endpoints", "restart", ENDPOINT, "--wait").returncode == 0


@pytest.mark.parametrize(
    ("before", "options", "scaling"),
    [
        ((1, 1), ["--min-replicas", "0"], {"min_replicas": 0, "max_replicas": 1}),
        ((1, 1), ["--min-replicas", "3"], {"min_replicas": 3, "max_replicas": 3}),
        ((0, 2), ["--min-replicas", "1"], {"min_replicas": 1, "max_replicas": 2}),
        ((0, 2), ["--idle-after", "90s"], {"idle_after": 90}),
        ((0, 2), ["--max-replicas", "4"], {"max_replicas": 4}),
        ((0, 2), ["--wake-timeout", "0"], {"wake_timeout": 0}),
    ],
)
def test_an_update_sends_what_is_given_and_keeps_a_fixed_number_fixed(
    platform: Platform, before: tuple[int, int], options: list[str], scaling: dict[str, Any]
) -> None:
    least, most = before
    platform.body = endpoint(scaling={"min_replicas": least, "max_replicas": most})
    assert shed(platform, "endpoints", "update", ENDPOINT, *options).returncode == 0
    assert sent(platform) == {"scaling": scaling}


def test_nothing_to_change_is_told(platform: Platform) -> None:
    platform.body = endpoint()
    assert shed(platform, "endpoints", "update", ENDPOINT).returncode == 2
    assert [method for method, _, _ in platform.asked] == ["GET"]


def test_replicas_are_shown_as_ready_of_wanted(platform: Platform) -> None:
    running = endpoint("running", "ready", "loading", "stopped", wanted=2)
    platform.body = {"data": [running, endpoint("idle")], "next_page_token": ""}
    _, first, second = shed(platform, "endpoints", "list").stdout.splitlines()
    assert first.split()[2:4] == ["running", "1/2"]
    assert second.split()[2:4] == ["idle", "0/0"]
    platform.body = running
    shown = [
        line.split() for line in shed(platform, "endpoints", "get", ENDPOINT).stdout.splitlines()
    ]
    assert ["ready", "1/2"] in shown
    assert "ready" not in json.loads(
        shed(platform, "endpoints", "get", ENDPOINT, "-o", "json").stdout
    )


def test_an_explanation_says_how_load_scales(platform: Platform) -> None:
    load = {"in_flight": 12.51, "low": 9, "high": None, "idle_seconds": 0}
    explained: dict[str, Any] = {
        "endpoint_id": ENDPOINT,
        "status": "running",
        "status_reason": "",
        "replicas": [],
        "wait": None,
        "scaling": {
            "target": 8,
            "load": load,
            "last": {
                "decided_at": "2026-01-01T00:00:00Z",
                "policy_version": "1",
                "replicas_before": 1,
                "target": 8,
                "load": load,
                "reason": "9.0 requests in flight or more are too many",
            },
            "reason": "as it should be",
        },
    }
    platform.body = endpoint() | explained
    assert shed(platform, "explain", ENDPOINT).stdout.splitlines() == [
        f"{ENDPOINT} is running",
        "load scales it to 8 requests in flight for each replica",
        "  now: as it should be",
        "  in flight: 12.5, lately 9.0 to ?",
        "  changed from 1 at 2026-01-01T00:00:00Z: 9.0 requests in flight or more are too many",
    ]
    platform.body["scaling"]["load"] = platform.body["scaling"]["last"] = None
    assert len(shed(platform, "explain", ENDPOINT).stdout.splitlines()) == 3


def test_asking_an_endpoint_that_does_not_wake_in_time_tells_what_it_waits_for(
    platform: Platform,
) -> None:
    platform.status = 503
    message = "the endpoint bot-a1b2c3 is queued and has no replica yet: waiting for 1 free GPU"
    error = {"message": message, "type": "x", "param": None, "code": "endpoint_waking"}
    platform.body = {"error": error}
    line = refusal(shed(platform, "chat", ENDPOINT, "hello"))
    assert line == f"error: {message} (endpoint_waking)"
