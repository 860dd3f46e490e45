"""What of a decision its endpoint's owner may see: nothing of nodes that are not the owner's."""

from google.protobuf.message import Message

from engineshed.api.scheduler.v1 import events_pb2 as pb


def why_for_owner(placed: pb.ReplicaPlaced) -> pb.PlacementDecision:
    """Return the why of a placement with the chosen node alone."""
    chosen = [one for one in placed.why.candidates if one.node_id == placed.node_id]
    return pb.PlacementDecision(policy_version=placed.why.policy_version, candidates=chosen)


def event_for_owner(event: Message) -> Message:
    """Return an event as its organization may read it."""
    if not isinstance(event, pb.ReplicaPlaced):
        return event
    shown = pb.ReplicaPlaced()
    shown.CopyFrom(event)
    shown.why.CopyFrom(why_for_owner(event))
    return shown
