"""What the catalog is told through its environment."""

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from engineshed.eventstore.settings import StoreSettings


class CatalogSettings(StoreSettings):
    """Settings of the catalog beside the common ones."""

    bootstrap_token_file: Path | None = Field(
        default=None,
        description="Where the first token is, an operator's and admin's; made when missing.",
    )
    default_organization: str = Field(
        default="default",
        pattern="^[a-z][a-z0-9-]{1,38}$",
        description="Slug of the organization that is there from the beginning.",
    )
    import_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="Directories, joined by ':', below which everybody may register checkpoints.",
    )
    artifact_store: str = Field(
        default="",
        description="file:///… the folder of all checkpoints; by default in the state directory.",
    )
    templates: Path | None = Field(
        default=None,
        description="A YAML or JSON file with the operator's templates; read at the start.",
    )
    orphan_hold_age_s: float = Field(
        default=3600,
        gt=0,
        description="Seconds after which a hold whose endpoint never came to be is given back.",
    )
    orphan_check_interval_s: float = Field(
        default=60, gt=0, description="Seconds between two looks for such holds."
    )

    @field_validator("artifact_store")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme != "file" or parts.netloc or not parts.path.startswith("/")):
            raise ValueError(f"{value!r} is no folder; give one as file:///absolute/path")
        return value

    @field_validator("import_roots", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value
        )

    @field_validator("templates")
    @classmethod
    def _is_absolute(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError(f"{value} is not an absolute path")
        return value

    @field_validator("import_roots")
    @classmethod
    def _require_absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in value:
            if not root.is_absolute():
                raise ValueError(f"{root} is not an absolute path")
        return value

    @property
    def artifacts(self) -> Path:
        """The artifact store."""
        if self.artifact_store:
            return Path(unquote(urlsplit(self.artifact_store).path))
        return self.state_dir / "artifacts"
