"""The bearer tokens that replicas demand: derived, so that none stands in an event or a log."""

import hmac
from pathlib import Path


class ReplicaSecrets:
    """Derives a replica's secret from the platform's key and the replica's id."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def load(cls, path: Path) -> "ReplicaSecrets":
        """Read the key from a file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is empty.

        """
        key = path.read_bytes().strip()
        if not key:
            raise ValueError(f"{path} is empty; it must hold the key of the replicas' secrets")
        return cls(key)

    def of(self, replica_id: str) -> str:
        """Return the secret of one replica."""
        return hmac.digest(self._key, replica_id.encode(), "sha256").hex()
