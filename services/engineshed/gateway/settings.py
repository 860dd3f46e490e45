"""What the gateway is told through its environment."""

import re
from typing import Annotated, Final, Literal, Self

from pydantic import Field, FilePath, field_validator, model_validator
from pydantic_settings import NoDecode

from engineshed.gateway.regions import Regions
from engineshed.runtime import CommonSettings

_REGION_URL: Final = re.compile(r"([a-z][a-z0-9-]{0,62})=(https?://[A-Za-z0-9.-]+(?::\d{1,5})?)/?")


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
    region_urls: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="Base URLs of all regions' gateways: eu=https://eu.example,us=https://…",
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

    @property
    def regions(self) -> Regions:
        """Where endpoints answer."""
        return Regions(self.region, f"{self.scheme}://{self.public_host}", self.region_urls)

    @field_validator("region_urls", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        urls: dict[str, str] = {}
        for part in filter(None, (part.strip() for part in value.split(","))):
            found = _REGION_URL.fullmatch(part)
            if found is None:
                raise ValueError(f"{part!r} is not REGION=URL, as eu=https://eu.example")
            region, url = found.groups()
            if region in urls:
                raise ValueError(f"{region} is there twice")
            urls[region] = url
        return urls

    @model_validator(mode="after")
    def _check_http_tls(self) -> Self:
        if bool(self.http_tls_cert_file) != bool(self.http_tls_key_file):
            raise ValueError(
                "ENGINESHED_HTTP_TLS_CERT_FILE and ENGINESHED_HTTP_TLS_KEY_FILE go together: set "
                "both, or none for plain HTTP"
            )
        return self
