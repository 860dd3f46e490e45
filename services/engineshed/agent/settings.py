"""What an agent is told through its environment."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import fsspec
from pydantic import ByteSize, Field, field_validator

from engineshed.agent.engines.room import Limits
from engineshed.runtime import CommonSettings

_SIMULATION: Final = re.compile(r"(?P<gpu_type>[a-z0-9][a-z0-9.-]{0,62}):(?P<count>[1-9]\d{0,3})")


class AgentSettings(CommonSettings):
    """Settings of the agent, beside the common ones."""

    artifact_store: str = Field(description="file:///… the folder of all checkpoints.")
    slots: int = Field(
        default=1, ge=1, le=1024, description="How many replicas of one slot a CPU host takes."
    )
    simulate: str = Field(
        default="", description='GPUs to declare that are not there, e.g. "h100-sxm:8".'
    )
    replica_host: str = Field(
        default="127.0.0.1",
        description="The address that replicas bind, and at which gateways reach them.",
    )

    engine_cache_bytes: ByteSize = Field(
        default=ByteSize(0),
        ge=0,
        description='What the engines on this host may come to, e.g. "200GB"; 0: no limit.',
    )
    engine_cache_min_free: ByteSize = Field(
        default=ByteSize(2_000_000_000),
        ge=0,
        description="What stays free of the disk that engines are on.",
    )

    tensorrt_llm_dir: Path = Field(
        default=Path("/app"),
        description="Where TensorRT-LLM's scripts and templates are: all_models, examples.",
    )
    calibration_dir: Path | None = Field(
        default=None,
        description="Texts that quantization is calibrated with: train.jsonl with a field `text`.",
    )
    build_stall_s: float = Field(
        default=900.0,
        gt=0,
        description="Ends a build that neither logs nor computes for so many seconds.",
    )

    engine_store: str = Field(
        default="",
        description="file:///… or s3://…: where hosts share engines; empty: they do not.",
    )

    @field_validator("engine_store")
    @classmethod
    def _is_a_store(cls, value: str) -> str:
        if not value:
            return value
        scheme, separator, path = value.partition("://")
        if not separator or "::" in value or (scheme == "file" and not path.startswith("/")):
            raise ValueError(f"{value!r} is no URL like file:///absolute/path or s3://bucket/path")
        try:
            fsspec.get_filesystem_class(scheme)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"engines cannot be shared in {value!r}: {error}; for s3://, install engineshed[s3]"
            ) from error
        return value

    @field_validator("artifact_store")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
            raise ValueError(f"{value!r} is no folder; give one as file:///absolute/path")
        return value

    @field_validator("simulate")
    @classmethod
    def _is_a_simulation(cls, value: str) -> str:
        if value and not _SIMULATION.fullmatch(value):
            raise ValueError(f'{value!r} is not <gpu type>:<count>, e.g. "h100-sxm:8"')
        return value

    @property
    def artifact_root(self) -> Path:
        """The folder of all checkpoints."""
        return Path(unquote(urlsplit(self.artifact_store).path))

    @property
    def simulated(self) -> tuple[str, int] | None:
        """The type and the number of the simulated GPUs; None: none are simulated."""
        found = _SIMULATION.fullmatch(self.simulate)
        return (found["gpu_type"], int(found["count"])) if found else None

    @property
    def engine_limits(self) -> Limits:
        """How much of the disk engines may take."""
        return Limits(self.engine_cache_bytes, self.engine_cache_min_free)

    @property
    def folder(self) -> Path:
        """Where the agent keeps everything of its own."""
        return self.state_dir / "agent"
