"""Who has which GPU of this host, so that no two replicas ever compute on one.

The scheduler sees to that, too. This is the last word: a replica is not started before the one that
had its GPUs is gone, whatever a desired state says.
"""

from collections.abc import Collection, Sequence


class Claims:
    """The GPUs that replicas with processes hold."""

    def __init__(self) -> None:
        self._holders: dict[int, str] = {}

    def take(self, replica_id: str, gpus: Collection[int]) -> bool:
        """Let the replica have all of `gpus`; False, and nothing changes, if one is taken."""
        if self.others(replica_id, gpus):
            return False
        self._holders.update(dict.fromkeys(gpus, replica_id))
        return True

    def others(self, replica_id: str, gpus: Collection[int]) -> Sequence[str]:
        """Return the other replicas that hold some of `gpus`."""
        holders = {self._holders.get(gpu, replica_id) for gpu in gpus}
        return sorted(holders - {replica_id})

    def give_back(self, replica_id: str) -> None:
        """Take away what the replica holds: nothing of it runs any more."""
        self._holders = {
            gpu: holder for gpu, holder in self._holders.items() if holder != replica_id
        }
