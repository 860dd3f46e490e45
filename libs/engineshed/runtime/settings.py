"""What every service is told through its environment."""

from pathlib import Path
from typing import Self

from pydantic import Field, FilePath, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from engineshed.runtime.tls import Tls, TlsPeer


class TlsSettings(BaseSettings):
    """The certificate of a process; without one everything is plain text."""

    model_config = SettingsConfigDict(env_prefix="ENGINESHED_", extra="ignore")

    tls_cert_file: FilePath | None = Field(
        default=None, description="This process's certificate, PEM, with the chain below it."
    )
    tls_key_file: FilePath | None = Field(default=None, description="The certificate's key, PEM.")
    tls_ca_file: FilePath | None = Field(
        default=None, description="The authority whose certificates the parts trust, PEM."
    )

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        files = (self.tls_cert_file, self.tls_key_file, self.tls_ca_file)
        if any(files) and not all(files):
            raise ValueError(
                "ENGINESHED_TLS_CERT_FILE, ENGINESHED_TLS_KEY_FILE and ENGINESHED_TLS_CA_FILE go "
                "together: set all three, or none for plain text"
            )
        if tls := self.tls:
            tls.check()
        return self

    @property
    def tls(self) -> Tls | None:
        """The files; None: plain text."""
        if self.tls_cert_file and self.tls_key_file and self.tls_ca_file:
            return Tls(self.tls_cert_file, self.tls_key_file, self.tls_ca_file)
        return None

    def tls_to(self, part: str) -> TlsPeer | None:
        """Return how to dial `part`; None: in plain text."""
        return self.tls.to(part) if self.tls else None


class CommonSettings(TlsSettings):
    """Settings that all services share: `ENGINESHED_` and the field's name in capitals."""

    state_dir: Path = Field(description="Where the service keeps its files; absolute.")
    listen: str = Field(default="127.0.0.1:0", description="host:port of the service's own server.")
    nats_url: str = Field(default="nats://127.0.0.1:4222", description="With user and password.")
    nats_url_file: FilePath | None = Field(default=None, description="Holds NATS_URL instead.")
    nats_replicas: int = Field(
        default=1, ge=1, le=5, description="How many nodes of a NATS cluster keep a new stream."
    )
    catalog_address: str = Field(default="127.0.0.1:7001", description="host:port of the catalog.")
    scheduler_address: str = Field(
        default="127.0.0.1:7002",
        description="host:port of the scheduler; of several, a gRPC target with all of them.",
    )
    service_token_file: Path = Field(description="The service's own token, for calls to others.")
    services_file: Path = Field(description="services.json: names and token hashes of services.")
    region: str = Field(default="local", description="Where this process runs.")
    log_level: str = Field(default="info", description="debug, info, warning or error.")
    metrics_listen: str = Field(
        default="", description="host:port of GET /metrics; empty: there is none."
    )
    metrics_token_file: Path | None = Field(
        default=None, description="The bearer token that GET /metrics asks for."
    )

    @model_validator(mode="after")
    def _read_nats_url(self) -> Self:
        if self.nats_url_file:
            self.nats_url = self.nats_url_file.read_text().strip()
        return self

    def service_token(self) -> str:
        """Return the service's own token."""
        return self.service_token_file.read_text().strip()
