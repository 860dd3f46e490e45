"""What a command adds to an endpoint's history.

`decide` returns the facts that a command makes true, and with them what follows at once:
surplus replicas drain, and the status that the owner sees is recorded when it changes. So cause
and effect are one append.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import reduce
from typing import assert_never

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as api
from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.errors import InvalidFieldError
from engineshed.scheduler.domain import admission, consequences, report
from engineshed.scheduler.domain.commands import (
    Autoscale,
    Command,
    Create,
    Delete,
    Fail,
    Leave,
    Lose,
    Place,
    Reclaim,
    Redeployment,
    Report,
    Restart,
    Rollback,
    Stop,
    Update,
    UseCheckpoint,
    Wait,
    Wake,
)
from engineshed.scheduler.domain.endpoint import (
    Endpoint,
    EndpointEvent,
    EndpointState,
    Status,
)
from engineshed.scheduler.domain.errors import (
    EndpointNotFoundError,
    EtagMismatchError,
    NothingToRollBackError,
    WrongStateError,
)
from engineshed.scheduler.domain.evolve import evolve
from engineshed.scheduler.domain.replica import SERVING_FIELDS, Checkpoint, Deployment
from engineshed.scheduler.domain.scaling import Scaling


def decide(state: Endpoint | None, command: Command, now: datetime) -> list[EndpointEvent]:
    """Return what `command` makes true; an empty list means it already was.

    Raises:
        DomainError: the command is refused; it says why and what would be right.

    """
    events = _decide(state, command, now)
    if not events:
        return []
    return [*events, *consequences.of(fold(state, events, now), events, now)]


def fold(state: Endpoint | None, events: Iterable[EndpointEvent], at: datetime) -> Endpoint:
    """Return the state after `events`, all recorded at `at`."""
    result = reduce(lambda before, event: evolve(before, event, at), events, state)
    assert result is not None, "an endpoint has at least one event"
    return result


def _decide(state: Endpoint | None, command: Command, now: datetime) -> Sequence[EndpointEvent]:
    if isinstance(command, Create):
        return [_created(command)]
    if state is None:
        raise EndpointNotFoundError("there is no such endpoint")
    match command:
        case Update():
            return _update(state, command)
        case Rollback():
            return _roll_back(state, command)
        case Stop():
            return _stop(state)
        case Restart():
            return _restart(state)
        case Delete():
            return _delete(state, command)
        case UseCheckpoint():
            return _use_checkpoint(state, command)
        case Fail():
            return _fail(state, command)
        case Place():
            return _place(state, command)
        case Wait():
            return _wait(state, command)
        case Autoscale():
            return _autoscale(state, command)
        case Wake():
            return _wake(state)
        case Reclaim():
            return report.reclaimed(state, command, now)
        case Report():
            return report.reported(state, command, now)
        case Lose():
            return report.lost(state, command, now)
        case Leave():
            return report.leaving(state, command, now)
        case _:
            assert_never(command)


def _created(command: Create) -> EndpointEvent:
    return pb.EndpointCreated(
        endpoint_id=command.endpoint_id,
        org_id=command.org_id,
        name=command.name,
        description=command.description,
        model_name=command.model_name,
        flavor_name=command.flavor_name,
        checkpoint=_served(command.checkpoint),
        gpu_type=command.gpu_type,
        gpu_count=command.gpu_count,
        region=command.region,
        scaling=command.scaling.message(),
        serving=command.serving.message(),
        routing_key=command.routing_key,
    )


def _update(state: Endpoint, command: Update) -> Sequence[EndpointEvent]:
    _require_alive(state, "be changed")
    _require_etag(state, command.etag)
    events: list[EndpointEvent] = []
    if renamed := _renamed(state, command):
        events.append(renamed)
    if scaled := _scaled(state, command):
        events.append(scaled)
    if redeployed := _redeployed(state, command.redeployment):
        events.append(redeployed)
    if command.enabled is False:
        events += _stop(state)
    if command.enabled is True:
        events += _restart(state)
    return events


def _renamed(state: Endpoint, command: Update) -> pb.EndpointRenamed | None:
    name = state.name if command.name is None else command.name
    description = state.description if command.description is None else command.description
    if (name, description) == (state.name, state.description):
        return None
    if not name:
        raise InvalidFieldError.of("name", "a name needs at least one character")
    return pb.EndpointRenamed(endpoint_id=state.endpoint_id, name=name, description=description)


def _scaled(state: Endpoint, command: Update) -> pb.EndpointScaled | None:
    old = state.scaling
    scaling = Scaling(
        old.min_replicas if command.min_replicas is None else command.min_replicas,
        old.max_replicas if command.max_replicas is None else command.max_replicas,
        old.idle_after if command.idle_after is None else command.idle_after,
        old.wake_timeout if command.wake_timeout is None else command.wake_timeout,
    )
    if scaling == old:
        return None
    admission.require_scaling(scaling, "scaling")
    if command.most_replicas is not None and scaling.min_replicas > old.min_replicas:
        admission.require_room(state.gpu_type, state.gpu_count, scaling, command.most_replicas)
    return pb.EndpointScaled(endpoint_id=state.endpoint_id, scaling=scaling.message())


def _redeployed(
    state: Endpoint, asked: Redeployment
) -> pb.EndpointRedeployed | pb.EndpointRolledBack | None:
    """Return the change of deployment; asking again for one whose rollout failed is another try."""
    old, rollout = state.deployment, state.rollout
    new = _changed(old, asked)
    if new == old and (asked == Redeployment() or rollout is None or not rollout.failure):
        return None
    if rollout is not None and new.same_as(rollout.previous):
        return _rolled_back(state, rollout.previous)
    return pb.EndpointRedeployed(
        endpoint_id=state.endpoint_id,
        deployment=state.deployments + 1,
        checkpoint=_served(new.checkpoint),
        gpu_type=new.gpu_type,
        gpu_count=new.gpu_count,
        serving=new.serving.message(),
        strategy=api.UpdateStrategy.ValueType(asked.strategy),
    )


def _changed(old: Deployment, asked: Redeployment) -> Deployment:
    serving = {
        name: value for name in SERVING_FIELDS if (value := getattr(asked, name)) is not None
    }
    return replace(
        old,
        checkpoint=asked.checkpoint or old.checkpoint,
        gpu_type=asked.gpu_type or old.gpu_type,
        gpu_count=asked.gpu_count or old.gpu_count,
        serving=replace(old.serving, **serving),
    )


def _roll_back(state: Endpoint, command: Rollback) -> Sequence[EndpointEvent]:
    _require_alive(state, "be rolled back")
    _require_etag(state, command.etag)
    if state.rollout is None:
        raise NothingToRollBackError(
            f"endpoint {state.endpoint_id} has no rollout that is under way or failed; "
            "to run something else, update it",
            endpoint_id=state.endpoint_id,
        )
    return [_rolled_back(state, state.rollout.previous)]


def _rolled_back(state: Endpoint, previous: Deployment) -> pb.EndpointRolledBack:
    return pb.EndpointRolledBack(endpoint_id=state.endpoint_id, deployment=previous.number)


def _stop(state: Endpoint) -> Sequence[EndpointEvent]:
    _require_alive(state, "be stopped")
    return [pb.EndpointStopping(endpoint_id=state.endpoint_id)] if state.enabled else []


def _restart(state: Endpoint) -> Sequence[EndpointEvent]:
    _require_alive(state, "be restarted", allowed="stopping or stopped")
    return [] if state.enabled else [pb.EndpointRestarted(endpoint_id=state.endpoint_id)]


def _delete(state: Endpoint, command: Delete) -> Sequence[EndpointEvent]:
    if state.status.state is EndpointState.TERMINATED:
        return []
    _require_etag(state, command.etag)
    return [pb.EndpointTerminated(endpoint_id=state.endpoint_id, reason=command.reason)]


def _use_checkpoint(state: Endpoint, command: UseCheckpoint) -> Sequence[EndpointEvent]:
    if state.checkpoint.digest or state.ended:
        return []
    if command.checkpoint.checkpoint_id != state.checkpoint.checkpoint_id:
        return []  # it serves another one by now
    served = _served(command.checkpoint)
    return [pb.EndpointCheckpointReady(endpoint_id=state.endpoint_id, checkpoint=served)]


def _fail(state: Endpoint, command: Fail) -> Sequence[EndpointEvent]:
    if state.ended:
        return []
    return [
        pb.EndpointFailed(endpoint_id=state.endpoint_id, code=command.code, reason=command.reason)
    ]


def _place(state: Endpoint, command: Place) -> Sequence[EndpointEvent]:
    """Place what is still missing: the endpoint may have changed since it was planned."""
    if command.deployment != state.placing.number:
        return []
    reserved = state.missing_reserved
    return [
        pb.ReplicaPlaced(
            endpoint_id=state.endpoint_id,
            replica_id=placement.replica_id,
            node_id=placement.node_id,
            gpus=placement.gpus,
            capacity="reserved" if index < reserved else "opportunistic",
            why=placement.why,
            deployment=command.deployment,
        )
        for index, placement in enumerate(command.placements[: state.missing])
    ]


def _wait(state: Endpoint, command: Wait) -> Sequence[EndpointEvent]:
    if not consequences.waits(state) or state.status == Status(
        EndpointState.QUEUED, command.reason
    ):
        return []
    return [pb.EndpointQueued(endpoint_id=state.endpoint_id, reason=command.reason)]


def _autoscale(state: Endpoint, command: Autoscale) -> Sequence[EndpointEvent]:
    """Want another number, unless what it was decided from is not so any more."""
    scaling = state.scaling
    outdated = not state.wanted or state.wanted != command.why.replicas
    if outdated or not scaling.min_replicas <= command.replicas <= scaling.max_replicas:
        return []
    return [
        pb.EndpointAutoscaled(
            endpoint_id=state.endpoint_id, replicas=command.replicas, why=command.why
        )
    ]


def _wake(state: Endpoint) -> Sequence[EndpointEvent]:
    if state.status.state is not EndpointState.IDLE:
        return []
    return [pb.EndpointWoken(endpoint_id=state.endpoint_id)]


def _require_alive(state: Endpoint, action: str, *, allowed: str = "") -> None:
    if not state.ended:
        return
    name = state.status.state.name.lower()
    allowed = allowed or "queued, provisioning, running, idle, stopping or stopped"
    raise WrongStateError(
        f"endpoint {state.endpoint_id} is {name} and cannot {action}; it would have to be "
        f"{allowed}" + ("; it can only be deleted" if name == "failed" else ""),
        endpoint_id=state.endpoint_id,
        state=name,
        allowed_states=allowed,
    )


def _require_etag(state: Endpoint, etag: str) -> None:
    if etag and etag != state.etag:
        raise EtagMismatchError(
            f"endpoint {state.endpoint_id} has changed: its etag is {state.etag}, not {etag}; "
            "read it again, then decide",
            endpoint_id=state.endpoint_id,
            etag=state.etag,
        )


def _served(checkpoint: Checkpoint) -> pb.ServedCheckpoint:
    return pb.ServedCheckpoint(
        checkpoint_id=checkpoint.checkpoint_id,
        digest=checkpoint.digest,
        location=checkpoint.location,
    )
