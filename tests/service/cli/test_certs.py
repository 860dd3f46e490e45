"""`shed certs`, as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from engineshed.cli.authority import names_in
from engineshed.runtime.tls import Tls

SHED = Path(sys.executable).with_name("shed")


def shed_certs(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SHED, "certs", folder, *options], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "certs"
    run = shed_certs(folder, "--node", "gpu-1", "--name", "gpu-1=10.0.0.7", "--client", "ci")
    assert run.returncode == 0, run.stderr
    return folder


def serial(file: Path) -> int:
    return x509.load_pem_x509_certificate(file.read_bytes()).serial_number


def test_every_part_gets_files_that_it_can_use_and_only_its_owner_can_read(made: Path) -> None:
    stems = {file.stem for file in made.glob("*.crt")} - {"ca"}

    assert stems == {
        "catalog",
        "scheduler",
        "gateway",
        "nats",
        "postgres",
        "agent-gpu-1",
        "client-ci",
    }
    for stem in stems:
        Tls(made / f"{stem}.crt", made / f"{stem}.key", made / "ca.crt").check()
    assert {key.stat().st_mode & 0o777 for key in made.glob("*.key")} == {0o600}


def test_an_agent_is_named_by_its_host_and_the_addresses_of_its_replicas(made: Path) -> None:
    names = names_in(made / "agent-gpu-1.crt")

    assert "agent.engineshed.internal" in names
    assert "gpu-1.agent.engineshed.internal" in names
    assert "10.0.0.7" in names


def test_running_it_again_renews_certificates_with_their_names_and_keeps_the_authority(
    made: Path,
) -> None:
    authority, old = (made / "ca.crt").read_bytes(), serial(made / "agent-gpu-1.crt")

    run = shed_certs(made, "--name", "catalog=catalog.example.com")

    assert run.returncode == 0, run.stderr
    assert (made / "ca.crt").read_bytes() == authority
    assert serial(made / "agent-gpu-1.crt") != old
    assert "10.0.0.7" in names_in(made / "agent-gpu-1.crt")
    assert "catalog.example.com" in names_in(made / "catalog.crt")


def test_a_new_authority_takes_force(made: Path) -> None:
    authority = serial(made / "ca.crt")

    run = shed_certs(made, "--force")

    assert run.returncode == 0, run.stderr
    assert serial(made / "ca.crt") != authority
    Tls(made / "nats.crt", made / "nats.key", made / "ca.crt").check()


def test_an_authority_without_its_key_is_not_replaced_unasked(made: Path) -> None:
    (made / "ca.key").unlink()
    authority = (made / "ca.crt").read_bytes()

    run = shed_certs(made)

    assert run.returncode == 1
    assert "--force" in run.stderr
    assert (made / "ca.crt").read_bytes() == authority


def test_it_says_what_to_set_and_that_it_is_for_development(made: Path) -> None:
    said = shed_certs(made).stdout

    assert f"ENGINESHED_TLS_CA_FILE={made / 'ca.crt'}" in said
    assert "For development" in said
