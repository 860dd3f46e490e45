"""What the gateway is told through its environment."""

from typing import Literal, Self

from pydantic import Field, FilePath, model_validator

from engineshed.runtime import CommonSettings


class Settings(CommonSettings):
    """Settings of the gateway."""

    http_host: str = Field(default="127.0.0.1", description="The address to listen on.")
    http_port: int = Field(default=8080, description="The port to listen on.")
    http_tls_cert_file: FilePath | None = Field(
        default=None, description="The certificate of the public port; without it: plain HTTP."
    )
    http_tls_key_file: FilePath | None = Field(default=None, description="Its key.")
    public_scheme: Literal["http", "https"] | None = Field(
        default=None,
        description="What callers use; by default https where the public port has a certificate. "
        "Set it where a load balancer ends TLS.",
    )
    public_host: str = Field(
        default="localhost:8080",
        description="Host and port that callers use; endpoints' own names are below it.",
    )
    drain_seconds: int = Field(
        default=2, description="How long requests in flight may take when the gateway stops."
    )
    token_staleness_seconds: float = Field(
        default=86_400,
        description="How old the copy of tokens may be while the broker cannot be reached.",
    )

    @property
    def scheme(self) -> str:
        """The scheme of endpoints' own URLs."""
        return self.public_scheme or ("https" if self.http_tls_cert_file else "http")

    @model_validator(mode="after")
    def _check_http_tls(self) -> Self:
        if bool(self.http_tls_cert_file) != bool(self.http_tls_key_file):
            raise ValueError(
                "ENGINESHED_HTTP_TLS_CERT_FILE and ENGINESHED_HTTP_TLS_KEY_FILE go together: set "
                "both, or none for plain HTTP"
            )
        return self
