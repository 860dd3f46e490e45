"""What a service is told through its environment about its event store."""

from pydantic import Field, FilePath, SecretStr

from engineshed.runtime import CommonSettings


class StoreSettings(CommonSettings):
    """Where the event store is."""

    database_url: SecretStr = Field(
        default=SecretStr(""),
        description="postgresql://user:password@host:5432/database, the same for all services, or "
        "sqlite:////absolute/path.db, one for each; by default a file in the state directory.",
    )
    database_url_file: FilePath | None = Field(
        default=None, description="Holds DATABASE_URL instead."
    )

    def store_url(self, service: str) -> str:
        """Return where the store of `service` is; it may hold a password."""
        if self.database_url_file:
            return self.database_url_file.read_text().strip()
        file = self.state_dir / f"{service}.db"
        return self.database_url.get_secret_value() or f"sqlite:///{file}"
