"""`shed` against an HTTP server that answers what it is told."""

import json
from typing import Any

import pytest
from tests.service.cli.stand_in import refusal, shed


def test_a_field_is_named_once(platform) -> None:
    platform.status = 422
    platform.body = {
        "detail": "name: is missing",
        "errors": [
            {"field": "name", "message": "is missing"},
            {"field": "region", "message": "valid: local"},
        ],
    }
    line = refusal(shed(platform, "deploy", "engineshed/sample"))
    assert line == "error: name: is missing; region: valid: local"


def test_a_token_that_is_not_known_says_where_it_came_from(platform) -> None:
    platform.status = 401
    platform.body = {"detail": "the token is unknown", "errors": []}
    assert "ENGINESHED_TOKEN" in refusal(shed(platform, "endpoints", "list"))


@pytest.mark.parametrize("token", ["“es_x”", "es_é"])
def test_a_token_that_can_be_none_is_not_sent(platform, token) -> None:
    assert "copy it again" in refusal(shed(platform, "nodes", ENGINESHED_TOKEN=token))
    assert platform.asked == []


def test_the_line_break_of_a_file_is_no_part_of_the_token(platform) -> None:
    assert shed(platform, "nodes", ENGINESHED_TOKEN="es_x\n").returncode == 0


@pytest.mark.parametrize(("status", "body"), [(200, "<html>"), (502, "<html>"), (500, "[1]")])
def test_another_server_is_told_from_the_platform(platform, status, body) -> None:
    platform.status, platform.body = status, body
    refusal(shed(platform, "nodes"))


def test_a_directory_is_registered_and_a_templates_name_is_not(
    platform, tmp_path, monkeypatch
) -> None:
    folder = tmp_path / "engineshed" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    platform.status, platform.body = 409, {"detail": "no", "errors": []}

    refusal(shed(platform, "deploy", "engineshed/mine"))
    refusal(shed(platform, "deploy", "engineshed/sample"))

    (_, registered, checkpoint), (_, created, endpoint) = platform.asked
    assert (registered, checkpoint) == ("/v0/checkpoints", {"name": "mine", "uri": folder.as_uri()})
    assert created == "/v0/dedicated_endpoints"
    assert (endpoint["name"], endpoint["model_name"]) == ("sample", "engineshed/sample")


@pytest.mark.parametrize(
    "options", [["--simulate", "h100"], ["--region", "Not One"], ["--http-port", "0"]]
)
def test_a_stack_that_could_never_run_is_not_started(platform, tmp_path, options) -> None:
    done = shed(platform, "up", "--state-dir", str(tmp_path / "state"), *options)
    assert done.returncode == 2
    assert options[0] in done.stderr
    assert not (tmp_path / "state").exists()


def test_a_state_directory_that_cannot_be_is_told_in_one_line(platform) -> None:
    assert "--state-dir" in refusal(shed(platform, "up", "--state-dir", "/proc/none"))


def test_an_address_of_another_host_is_told_as_what_it_is(platform, tmp_path) -> None:
    state = str(tmp_path / "state")
    line = refusal(shed(platform, "up", "--state-dir", state, "--http-host", "host.invalid"))
    assert "taken" not in line


NODE = "node_01HZZZZZZZZZZZZZZZZZZZZZZZ"


def node(status: str = "joined", *holders: str | None) -> dict[str, Any]:
    gpus = [
        {
            "index": index,
            "replica_id": one,
            "endpoint_id": one and "ep_1",
            "org_id": one and "org_1",
        }
        for index, one in enumerate(holders)
    ]
    offer = {"gpu_type": "h100-sxm", "gpu_count": len(gpus), "simulated": False, "backends": []}
    place = {"hostname": "gpu-7", "region": "eu-1", "heard_at": "2026-01-01T00:00:00Z"}
    place["status_reason"] = "fans" if status != "joined" else ""
    return {"id": NODE, "node_id": NODE, "status": status, "gpus": gpus, **offer, **place}


def test_nodes_are_shown_with_who_holds_which_gpu(platform) -> None:
    platform.body["data"] = [node("draining", "rep_1", "rep_2", "rep_1", None)]
    done = shed(platform, "nodes")
    hosts, _, holders = done.stdout.partition("\n\n")
    assert "draining" in hosts
    assert "fans" in hosts
    assert "1/4 free h100-sxm" in hosts
    assert [line.split() for line in holders.splitlines()[1:]] == [
        [NODE, "0,2", "rep_1", "ep_1", "org_1"],
        [NODE, "1", "rep_2", "ep_1", "org_1"],
    ]
    assert json.loads(shed(platform, "nodes", "-o", "json").stdout) == platform.body["data"]


def test_a_host_is_taken_out_of_use_by_its_name_or_its_id(platform) -> None:
    platform.body = {**node("cordoned"), "data": [node()], "next_page_token": ""}
    for arguments in (
        ("cordon", "gpu-7", "--reason", "fans"),
        ("drain", NODE),
        ("uncordon", NODE),
    ):
        assert shed(platform, *arguments).returncode == 0
    assert platform.asked == [
        ("GET", "/v0/nodes", None),
        ("POST", f"/v0/nodes/{NODE}/cordon", {"reason": "fans"}),
        ("POST", f"/v0/nodes/{NODE}/drain", None),
        ("POST", f"/v0/nodes/{NODE}/uncordon", None),
    ]


def test_a_host_that_nobody_knows_is_told_with_the_command_that_lists_them(platform) -> None:
    assert refusal(shed(platform, "drain", "gpu-8")).endswith("see: shed nodes")


def test_draining_a_host_waits_until_nobody_is_left_on_it(platform) -> None:
    platform.body = node("draining", None, None)
    done = shed(platform, "drain", NODE, "--wait")
    assert done.returncode == 0
    assert "draining" in done.stdout
    assert platform.asked[-1] == ("GET", f"/v0/nodes/{NODE}", None)


def test_a_host_is_removed_only_when_that_is_confirmed(platform) -> None:
    platform.body = node()
    done = shed(platform, "remove-node", NODE)
    assert done.returncode == 1
    assert "while it runs, it joins again" in done.stderr
    assert [method for method, _, _ in platform.asked] == ["GET"]
    assert shed(platform, "remove-node", NODE, "--force", "--yes").returncode == 0
    assert platform.asked[-1][:2] == ("DELETE", f"/v0/nodes/{NODE}?force=true")
    platform.body = node("lost")
    assert shed(platform, "remove-node", NODE, "--yes").stderr == ""


def test_deploy_asks_for_what_its_options_say_and_for_nothing_else(platform) -> None:
    platform.status, platform.body = 409, {"detail": "no", "errors": []}

    refusal(shed(platform, "deploy", "acme/bot"))
    options = ["--gpu-type", "h100-sxm", "--gpus", "2", "--region", "eu", "--fail-if-full"]
    refusal(shed(platform, "deploy", "acme/bot", "--checkpoint", "ckpt_1", *options))

    (_, _, plain), (_, _, chosen) = platform.asked
    scaling = {"min_replicas": 1, "max_replicas": 1}
    assert plain == {"name": "bot", "model_name": "acme/bot", "scaling": scaling, "serving": {}}
    assert chosen == plain | {
        "checkpoint_id": "ckpt_1",
        "gpu_type": "h100-sxm",
        "gpu_count": 2,
        "region": "eu",
        "on_no_capacity": "fail",
    }
