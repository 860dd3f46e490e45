"""The REST API over HTTP, with stand-ins for the services behind it."""

from typing import get_args

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from tests.metrics import sample
from tests.service.gateway.rest import ENDPOINT, ENDPOINTS, NEW, ONE, fields, refused

from engineshed.api.catalog.v1 import checkpoint_service_pb2
from engineshed.api.scheduler.v1 import (
    endpoint_service_pb2,
    node_service_pb2,
)
from engineshed.errors import FieldError, Kind
from engineshed.gateway.app import MAX_CONTROL_BYTES
from engineshed.gateway.controlplane import schemas
from engineshed.rpc.status import RemoteError


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (f"{ENDPOINTS}/ep_1", "ENDPOINT"),
        (f"{ENDPOINTS}/nope/events", "ENDPOINT"),
        ("/v0/checkpoints/ckpt_%ff", "CHECKPOINT"),
        ("/v0/organizations/acme", "ORGANIZATION"),
        ("/v0/nodes/*", "NODE"),
    ],
)
async def test_what_is_no_id_names_nothing(client, scheduler, path, kind) -> None:
    problem = await refused(await client.get(path), 404)
    assert problem["reason"] == f"{kind}_NOT_FOUND"
    assert not scheduler.requests


async def test_a_query_parameter_that_means_nothing_is_refused(client, scheduler) -> None:
    problem = await refused(await client.get(ENDPOINTS, params={"page_sise": 5}), 422)
    assert fields(problem) == ["page_sise"]
    assert "page_size" in problem["detail"]
    assert not scheduler.requests


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**NEW, "bogus": 1}, "bogus"),
        ({**NEW, "name": None}, "name"),
        ({**NEW, "gpu_count": True}, "gpu_count"),
        ({**NEW, "gpu_count": "1"}, "gpu_count"),
        ({**NEW, "gpu_count": 0}, "gpu_count"),
        ({**NEW, "serving": {"max_context": 0}}, "serving.max_context"),
        ({**NEW, "serving": {"max_batch_size": 4097}}, "serving.max_batch_size"),
        ({**NEW, "serving": {"max_batch_tokens": 0}}, "serving.max_batch_tokens"),
        ({**NEW, "serving": {"max_batch_tokens": 1.5}}, "serving.max_batch_tokens"),
        ({**NEW, "serving": {"kv_cache_fraction": 0}}, "serving.kv_cache_fraction"),
        ({**NEW, "serving": {"kv_cache_fraction": 1.01}}, "serving.kv_cache_fraction"),
        ({**NEW, "serving": {"kv_cache_fraction": "0.5"}}, "serving.kv_cache_fraction"),
        ({**NEW, "scaling": {"min_replicas": None}}, "scaling.min_replicas"),
        ({**NEW, "scaling": {"min_replicas": -1}}, "scaling.min_replicas"),
        ({**NEW, "scaling": {"idle_after": 0.5}}, "scaling.idle_after"),
        ({**NEW, "scaling": {"idle_after": "5m"}}, "scaling.idle_after"),
        ({**NEW, "scaling": {"wake_timeout": -1}}, "scaling.wake_timeout"),
        ({**NEW, "scaling": {"wake_timeout": 601}}, "scaling.wake_timeout"),
        ({**NEW, "scaling": {"wake_timeout": True}}, "scaling.wake_timeout"),
        ({"model_name": "m"}, "name"),
        ([], "body"),
    ],
)
async def test_a_body_with_a_wrong_field_is_refused_by_the_fields_name(
    client, scheduler, body, field
) -> None:
    problem = await refused(await client.post(ENDPOINTS, json=body), 422)
    assert fields(problem) == [field]
    assert not scheduler.requests


async def test_a_number_out_of_bounds_is_told_with_the_bound(client) -> None:
    body = {**NEW, "serving": {"max_batch_size": 5000}}
    problem = await refused(await client.post(ENDPOINTS, json=body), 422)
    assert problem["detail"] == (
        "serving.max_batch_size: Input should be less than or equal to 4096; it is 5000"
    )


async def test_half_a_surrogate_pair_is_refused(client, scheduler) -> None:
    headers = {"content-type": "application/json"}
    body = b'{"name": "\\ud800", "model_name": "m"}'
    problem = await refused(await client.post(ENDPOINTS, content=body, headers=headers), 422)
    assert fields(problem) == ["name"]
    assert not scheduler.requests


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00", "x"]
)
async def test_a_moment_without_a_place_in_time_is_refused(client, scheduler, moment) -> None:
    problem = await refused(await client.get(ONE, params={"as_of": moment}), 422)
    assert fields(problem) == ["as_of"]
    assert not scheduler.requests


async def test_a_position_that_no_number_of_theirs_can_hold_is_refused(client) -> None:
    await refused(await client.get(f"{ONE}/events", params={"after_position": 2**64}), 422)


async def test_an_update_names_exactly_the_fields_that_were_given(client, scheduler) -> None:
    body = {"description": "", "scaling": {"max_replicas": 3}}
    assert (await client.patch(ONE, json=body)).status_code == 200
    (request,) = scheduler.requests
    assert list(request.update_mask.paths) == ["description", "scaling.max_replicas"]


async def test_an_update_changes_single_fields_of_what_is_served(client, scheduler) -> None:
    body = {
        "checkpoint_id": "ckpt_" + "0" * 26,
        "serving": {
            "precision": None,
            "max_context": 512,
            "max_batch_tokens": None,
            "kv_cache_fraction": 0.25,
        },
        "update_strategy": "recreate",
    }
    assert (await client.patch(ONE, json=body)).status_code == 200
    (request,) = scheduler.requests
    assert list(request.update_mask.paths) == [
        "checkpoint_id",
        "serving.kv_cache_fraction",
        "serving.max_batch_tokens",
        "serving.max_context",
        "serving.precision",
    ]
    assert request.endpoint.serving == endpoint_service_pb2.ServingParameters(
        max_context=512, kv_cache_fraction=0.25
    )
    assert request.update_strategy == endpoint_service_pb2.UPDATE_STRATEGY_RECREATE


async def test_an_endpoint_is_rolled_back_under_its_etag(client, scheduler) -> None:
    answer = await client.post(f"{ONE}/rollback", headers={"if-match": '"v7"'})
    assert answer.status_code == 200
    (request,) = scheduler.requests
    assert isinstance(request, endpoint_service_pb2.RollbackEndpointRequest)
    assert request.etag == "v7"


async def test_a_service_s_field_errors_are_told_in_the_names_of_the_rest_api(
    client, scheduler
) -> None:
    told = "endpoint.name: must be at most 100 characters; expire_time: is past"
    errors = (
        FieldError("endpoint.name", "must be at most 100 characters"),
        FieldError("expire_time", "is past"),
    )
    scheduler.error = RemoteError(Kind.INVALID, "INVALID_FIELD", told, errors, {})

    problem = await refused(await client.patch(ONE, json={"name": "x"}), 422)

    assert fields(problem) == ["name", "expires_at"]
    assert problem["detail"] == "name: must be at most 100 characters; expires_at: is past"


@pytest.mark.parametrize(("if_match", "etag"), [('"v1"', "v1"), ("*", ""), ('W/"v1"', "v1")])
async def test_an_etag_guards_an_update(client, scheduler, if_match, etag) -> None:
    await client.patch(ONE, json={"name": "x"}, headers={"if-match": if_match})
    assert scheduler.requests[0].etag == etag


async def test_head_is_answered_as_get_is(client) -> None:
    answer = await client.head(ONE)
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"v1"'


async def test_another_method_is_told_which_ones_there_are(client) -> None:
    answer = await client.put(ENDPOINTS)
    await refused(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_a_huge_body_is_refused_unread(client, scheduler) -> None:
    answer = await client.post(ENDPOINTS, content=b" " * (MAX_CONTROL_BYTES + 1))
    assert (await refused(answer, 413))["reason"] == "BODY_TOO_LARGE"
    assert not scheduler.requests


async def test_a_bug_is_told_as_a_problem_and_no_more_of_it_than_the_request(
    client, scheduler
) -> None:
    scheduler.error = KeyError("secret")
    with capture_logs() as logs:
        problem = await refused(await client.get(ONE), 500)
    assert any(entry.get("exc_info") is scheduler.error for entry in logs)
    assert "secret" not in str(problem)


async def test_without_a_token_nothing_is_said_but_that(client) -> None:
    for token in ("", "Bearer es_theirs", "Basic es_mine"):
        answer = await client.get(ONE, headers={"authorization": token})
        await refused(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_document_describes_every_answer_and_every_error(client) -> None:
    document = (await client.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            success = next(answer for status, answer in operation["responses"].items())
            media = "text/plain" if path.endswith("/metrics") else "application/json"
            assert success["content"][media]["schema"], (verb, path)
            for status in ("4XX", "5XX"):
                content = operation["responses"][status]["content"]
                assert content["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
    names = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    ]
    assert len(names) == len(set(names))


async def test_the_page_of_the_api_needs_nothing_from_elsewhere(client) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "openapi.json" in page.text
    assert "//" not in page.text.replace("// Shows", "")


@pytest.mark.parametrize(
    ("shape", "enum"),
    [
        (schemas.Endpoint, endpoint_service_pb2.Endpoint.State),
        (schemas.Replica, endpoint_service_pb2.Replica.State),
        (schemas.Node, node_service_pb2.Node.State),
        (schemas.Checkpoint, checkpoint_service_pb2.Checkpoint.State),
    ],
)
def test_every_state_of_the_services_has_its_status(shape, enum) -> None:
    known = set(get_args(shape.model_fields["status"].annotation))
    states = {name.removeprefix("STATE_").lower() for name in dict(enum.items())}
    assert known == states - {"unspecified"}


OPERATOR = {"authorization": "Bearer es_operator"}


async def test_operators_see_how_often_what_was_asked_and_how_it_ended(client) -> None:
    await client.get(ONE)
    await client.get(ONE)
    await client.get(f"/v0/nothing/{ENDPOINT}")

    text = (await client.get("/metrics", headers=OPERATOR)).text

    def requests(route: str, status: str) -> float:
        labels = {"http_route": route, "http_response_status_code": status}
        return sample(text, "http_server_request_duration_seconds_count", **labels)

    assert requests(f"{ENDPOINTS}/{{endpoint_id}}", "200") == 2
    assert requests("", "404") == 1
    assert ENDPOINT not in text
    assert sample(text, "engineshed_build_info", service="gateway") == 1


async def test_nobody_else_sees_the_metrics(client) -> None:
    await refused(await client.get("/metrics"), 403)
    await refused(await client.get("/metrics", headers={"authorization": "Bearer no"}), 401)


async def test_whatever_is_logged_for_a_request_carries_its_id(client, scheduler) -> None:
    scheduler.error = ZeroDivisionError("a secret detail")
    with capture_logs(processors=[merge_contextvars]) as lines:
        answer = await client.get(ONE, headers={"x-request-id": "mine"})

    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "mine"
    assert {"request failed", "request"} <= {line["event"] for line in lines}
    assert {line["request_id"] for line in lines} == {"mine"}
