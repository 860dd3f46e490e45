"""What the scheduler is told through its environment."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from engineshed.eventstore.settings import StoreSettings


class SchedulerSettings(StoreSettings):
    """Settings of the scheduler beside the common ones."""

    replica_key_file: Path = Field(description="The key that replicas' secrets are derived from.")
    most_gpus: int = Field(
        default=8, ge=1, le=64, description="How many GPUs a replica may have at most."
    )
    leader_lease_s: float = Field(
        default=8.0,
        ge=1,
        description="Seconds without a sign of the leader after which a standby takes over.",
    )
    lease_s: float = Field(
        default=10.0, gt=0, description="Seconds of silence after which a node counts as lost."
    )
    drain_timeout_s: float = Field(
        default=600.0, ge=0, description="Seconds after which a drain cuts off what is left."
    )
    checkpoint_poll_s: float = Field(
        default=3.0, gt=0, description="Seconds between two questions after awaited checkpoints."
    )

    @property
    def drain_timeout(self) -> timedelta:
        """How long draining may take."""
        return timedelta(seconds=self.drain_timeout_s)
