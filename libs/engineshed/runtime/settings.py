"""What every service is told through its environment."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class CommonSettings(BaseSettings):
    """Settings that all services share: `ENGINESHED_` and the field's name in capitals."""

    model_config = SettingsConfigDict(env_prefix="ENGINESHED_", extra="ignore")

    state_dir: Path = Field(description="Where the service keeps its files; absolute.")
    listen: str = Field(default="127.0.0.1:0", description="host:port of the service's own server.")
    nats_url: str = Field(default="nats://127.0.0.1:4222", description="With user and password.")
    nats_replicas: int = Field(
        default=1, ge=1, le=5, description="How many nodes of a NATS cluster keep a new stream."
    )
    catalog_address: str = Field(default="127.0.0.1:7001", description="host:port of the catalog.")
    scheduler_address: str = Field(
        default="127.0.0.1:7002", description="host:port of the scheduler."
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

    def service_token(self) -> str:
        """Return the service's own token."""
        return self.service_token_file.read_text().strip()
