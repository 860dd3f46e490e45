"""What the gateway is told through its environment."""

from pydantic import Field

from engineshed.runtime import CommonSettings


class Settings(CommonSettings):
    """Settings of the gateway."""

    http_host: str = Field(default="127.0.0.1", description="The address to listen on.")
    http_port: int = Field(default=8080, description="The port to listen on.")
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
