"""Commands on nodes: find, decide, record."""

from typing import Final

from engineshed import ids
from engineshed.eventstore import Metadata
from engineshed.scheduler.domain import node
from engineshed.scheduler.domain.node import Node, NodeCommand
from engineshed.scheduler.journal import Journal
from engineshed.scheduler.store import SERVICE

_BY_ITSELF: Final = Metadata(SERVICE, ids.PLATFORM)


class Nodes:
    """All nodes."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def command(
        self, node_id: str, command: NodeCommand, metadata: Metadata = _BY_ITSELF
    ) -> Node:
        """Record what `command` makes true, and return the node after it.

        Raises:
            DomainError: the command is refused, or cannot be recorded now.

        """
        return await self._journal.finish(self._command(node_id, command, metadata))

    async def _command(self, node_id: str, command: NodeCommand, metadata: Metadata) -> Node:
        stream = f"node/{node_id}"
        nodes = self._journal.view.nodes
        async with self._journal.lock(stream):
            state = nodes.get(node_id)
            events = node.decide(state, command)
            if events:
                before = state.revision if state else 0
                await self._journal.append(stream, before, events, metadata)
            return nodes[node_id]
