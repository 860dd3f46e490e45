"""What settings refuse, and what they read from files."""

from pathlib import Path
from typing import Any

import pytest
from tests.service.certificates import Certificates

from engineshed.runtime import CommonSettings, TlsSettings


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    made = Certificates(tmp_path / "certs").of("catalog")
    return {
        "tls_cert_file": made.certificate,
        "tls_key_file": made.key,
        "tls_ca_file": made.authority,
    }


def test_without_files_there_is_no_tls() -> None:
    assert TlsSettings().tls is None
    assert TlsSettings().tls_to("catalog") is None


@pytest.mark.parametrize("missing", ["tls_cert_file", "tls_key_file", "tls_ca_file"])
def test_certificate_key_and_authority_go_together(files: dict[str, Any], missing: str) -> None:
    del files[missing]

    with pytest.raises(ValueError, match="ENGINESHED_TLS_CA_FILE go together"):
        TlsSettings(**files)


def test_a_key_of_another_certificate_is_refused_at_the_start(
    files: dict[str, Any], tmp_path: Path
) -> None:
    files["tls_key_file"] = Certificates(tmp_path / "foreign").of("catalog").key

    with pytest.raises(ValueError, match="are no certificate and its key"):
        TlsSettings(**files)


def test_the_url_of_nats_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "nats.url"
    file.write_text("nats://catalog:secret@nats-1:4222\n")

    settings = CommonSettings(
        state_dir=tmp_path,
        service_token_file=tmp_path / "token",
        services_file=tmp_path / "services.json",
        nats_url_file=file,
    )

    assert settings.nats_url == "nats://catalog:secret@nats-1:4222"
