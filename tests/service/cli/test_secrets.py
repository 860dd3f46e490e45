"""`shed secrets`, as an operator runs it."""

import json
import subprocess
import sys
from pathlib import Path

from engineshed.auth import hash_token

SHED = Path(sys.executable).with_name("shed")


def shed_secrets(folder: Path, *options: str) -> dict[str, str]:
    subprocess.run([SHED, "secrets", folder, *options], check=True, timeout=60)
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_what_was_made_once_stays_and_is_its_owners_alone(tmp_path: Path) -> None:
    first = shed_secrets(tmp_path)
    second = shed_secrets(tmp_path)

    del first["nats.conf"], second["nats.conf"]  # holds passwords hashed anew
    assert first == second
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_services_are_known_by_the_hashes_of_their_tokens(tmp_path: Path) -> None:
    made = shed_secrets(tmp_path)

    assert json.loads(made["services.json"])["agent"] == hash_token(made["agent.token"])


def test_all_nodes_of_the_broker_are_named_to_services_and_to_each_other(tmp_path: Path) -> None:
    made = shed_secrets(tmp_path, "--nats", "a.example.com", "--nats", "b.example.com")

    for host in ("a.example.com", "b.example.com"):
        assert f"{host}:4222" in made["nats-gateway.url"]
        assert f"@{host}:6222" in made["nats.conf"]
