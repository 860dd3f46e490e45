"""`shed` as a user types it, and the commands that the documents name."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import ROOT, SAMPLE
from tests.e2e.stack import Json, Stack

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shed(stack: Stack, *arguments: str, ok: bool = True) -> str:
    done = subprocess.run(
        ["shed", *arguments],
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if ok:
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout
    assert done.returncode != 0
    return done.stderr


def test_a_checkpoint_becomes_an_answer_by_the_command_line_alone(
    stack: Stack, tmp_path: Path
) -> None:
    folder = tmp_path / "made-by-hand"  # a name of its own, by which it is asked for
    shutil.copytree(SAMPLE, folder)
    made = json.loads(
        shed(stack, "deploy", str(folder), "--name", "by-hand", "--precision", "float32",
             "--wait", "--output", "json")
    )  # fmt: skip
    assert made["status"] == "running"

    assert "locomotive" in shed(stack, "chat", "by-hand", "What is an engine shed?")
    assert "by-hand" in shed(stack, "endpoints", "list")
    assert "ReplicaReady" in shed(stack, "events", made["endpoint_id"])
    assert "gen_ai_server_request_duration_seconds" in shed(stack, "metrics", "by-hand")
    everything = shed(stack, "events")
    assert f"endpoint/{made['endpoint_id']} EndpointCreated" in everything
    assert "NodeJoined" in everything  # for an operator
    assert "by-hand" in shed(stack, "endpoints", "get", made["routing_key"])
    assert made["checkpoint_id"] in shed(stack, "checkpoints", "get", folder.name)
    stopped = json.loads(shed(stack, "endpoints", "stop", "by-hand", "--wait", "-o", "json"))
    assert stopped["status"] == "stopped"
    shed(stack, "endpoints", "delete", "by-hand", "--yes")
    shed(stack, "checkpoints", "delete", made["checkpoint_id"])


def test_lists_can_be_printed_for_programs(stack: Stack, sample: Json) -> None:
    rows = json.loads(shed(stack, "endpoints", "list", "--output", "json"))
    assert sample["endpoint_id"] in [row["endpoint_id"] for row in rows]
    assert json.loads(shed(stack, "nodes", "-o", "json"))[0]["status"] == "joined"
    assert "engineshed/sample" in shed(stack, "templates")
    assert json.loads(shed(stack, "checkpoints", "list", "-o", "json"))


def test_tokens_can_be_made_and_revoked(stack: Stack) -> None:
    made = json.loads(shed(stack, "token", "create", "ci", "--scope", "inference", "-o", "json"))
    assert made["token"].startswith("es_")
    assert made["token_id"] in shed(stack, "token", "list")
    assert made["token"] not in shed(stack, "token", "list")
    revoked = json.loads(shed(stack, "token", "revoke", "ci", "-o", "json"))
    assert revoked["token_id"] == made["token_id"]
    assert revoked["revoked_at"]


def test_mistakes_are_told_in_one_line_with_the_way_out(stack: Stack) -> None:
    assert "shed endpoints list" in shed(stack, "endpoints", "get", "nothing", ok=False)
    assert "gpu_type" in shed(
        stack, "deploy", "engineshed/sample", "--name", "x", "--gpu-type", "h900", ok=False
    )
    lost = subprocess.run(
        ["shed", "endpoints", "list"],
        env={**stack.environment, "ENGINESHED_URL": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert lost.returncode == 1
    assert "shed up" in lost.stderr


def test_a_reader_that_has_enough_ends_a_command_without_a_word(stack: Stack, sample: Json) -> None:
    for command in ("logs", "events", "endpoints list"):
        name = "" if command == "endpoints list" else sample["endpoint_id"]
        done = subprocess.run(
            ["bash", "-c", f"shed {command} {name} | head -n 1"],
            env=stack.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout.count("\n") == 1
        assert done.stderr == ""


def test_ctrl_c_ends_following_without_a_word(stack: Stack, sample: Json) -> None:
    with subprocess.Popen(
        ["shed", "events", "--follow", sample["endpoint_id"]],
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert "EndpointCreated" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        _, complaint = following.communicate(timeout=60)
    assert following.returncode == 130
    assert "Traceback" not in complaint


def test_every_command_explains_itself(stack: Stack) -> None:
    for words in ([], ["up"], ["deploy"], ["endpoints", "list"], ["chat"], ["logs"], ["token"]):
        assert "Usage" in shed(stack, *words, "--help")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_in_the_documents_run(stack: Stack, document: Path, tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "my-checkpoint")
    script = ["set -euo pipefail"]
    for number, (language, text) in enumerate(BLOCK.findall(document.read_text())):
        if language == "python":
            program = tmp_path / f"block{number}.py"
            program.write_text(text)
            text = f"{sys.executable} {program}"
        script.append(text)

    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
