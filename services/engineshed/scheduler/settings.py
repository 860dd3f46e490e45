"""What the scheduler is told through its environment."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field, field_validator

from engineshed.eventstore.settings import StoreSettings
from engineshed.scheduler.domain.load_history import Windows


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
    purge_stopped_after: timedelta = Field(
        default=timedelta(days=14),
        ge=timedelta(0),
        description='How long an endpoint may be stopped until it is terminated, e.g. "14d", '
        '"36:00:00" or a number of seconds; 0: for ever.',
    )
    plans_kept_for: timedelta = Field(
        default=timedelta(days=14),
        ge=timedelta(0),
        description="How long it is kept what plans were made from, for `shed simulate --replay`, "
        "given alike; 0: for ever.",
    )

    scale_target: float = Field(
        default=8.0,
        gt=0,
        description="Requests in flight that each replica should have on average, where "
        "max_replicas lets load decide how many run.",
    )
    scale_up_window_s: float = Field(
        default=15.0, gt=0, description="Seconds of load throughout which a replica is added."
    )
    scale_down_window_s: float = Field(
        default=300.0, gt=0, description="Seconds without load after which a replica is taken away."
    )
    reclaim_idle_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds without a request after which a replica beyond min_replicas may have "
        "to make room for reserved ones of another endpoint.",
    )

    log_retention: timedelta | None = Field(
        default=None,
        ge=timedelta(hours=1),
        description="How long lines of replicas' logs are kept, given alike; unset: two weeks, or "
        "as the broker's stream has been set.",
    )

    @field_validator("purge_stopped_after", "plans_kept_for", "log_retention", mode="before")
    @classmethod
    def _read_seconds(cls, value: object) -> object:
        return float(value) if isinstance(value, str) and _is_number(value) else value

    @property
    def windows(self) -> Windows:
        """How far autoscaling looks back."""
        return Windows(
            up=timedelta(seconds=self.scale_up_window_s),
            down=timedelta(seconds=self.scale_down_window_s),
            reclaim=timedelta(seconds=self.reclaim_idle_s),
        )

    @property
    def drain_timeout(self) -> timedelta:
        """How long draining may take."""
        return timedelta(seconds=self.drain_timeout_s)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
