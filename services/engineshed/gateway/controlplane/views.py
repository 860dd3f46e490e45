"""Messages of the services as JSON objects."""

from datetime import UTC
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from engineshed.api.catalog.v1 import events_pb2 as catalog_events
from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.api.catalog.v1.organization_service_pb2 import Organization
from engineshed.api.catalog.v1.template_service_pb2 import Flavor, Template
from engineshed.api.catalog.v1.token_service_pb2 import Token
from engineshed.api.events.v1.event_service_pb2 import Event
from engineshed.api.scheduler.v1 import events_pb2 as scheduler_events
from engineshed.api.scheduler.v1.endpoint_service_pb2 import (
    Endpoint,
    Replica,
    Rollout,
    ServingParameters,
    UpdateStrategy,
)
from engineshed.api.scheduler.v1.node_service_pb2 import Node
from engineshed.bus import StoredLine

Json = dict[str, Any]

# Events come packed in Any; these files make their types known.
EVENT_FILES = (catalog_events.DESCRIPTOR, scheduler_events.DESCRIPTOR)


def time(message: Message, field: str) -> str | None:
    """Return a timestamp field as RFC 3339, or None when it is unset."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=UTC).isoformat().replace("+00:00", "Z")


def seconds(duration: Duration) -> float:
    """Return a duration in seconds; whole ones as an integer."""
    found = duration.ToTimedelta().total_seconds()
    return int(found) if found.is_integer() else found


def page(items: list[Json], next_page_token: str) -> Json:
    """Return a page of a list."""
    return {"data": items, "next_page_token": next_page_token}


def endpoint(item: Endpoint, url: str) -> Json:
    """Return an endpoint with its replicas; `url` is its own."""
    return {
        "id": item.endpoint_id,
        "endpoint_id": item.endpoint_id,
        "org_id": item.org_id,
        "name": item.name,
        "description": item.description,
        "model_name": item.model_name,
        "flavor_name": item.flavor_name,
        "checkpoint_id": item.checkpoint_id,
        "checkpoint_digest": item.checkpoint_digest or None,
        "gpu_type": item.gpu_type,
        "gpu_count": item.gpu_count,
        "region": item.region,
        "scaling": {
            "min_replicas": item.scaling.min_replicas,
            "max_replicas": item.scaling.max_replicas,
            "idle_after": seconds(item.scaling.idle_after),
            "wake_timeout": seconds(item.scaling.wake_timeout),
        },
        "serving": serving(item.serving),
        "enabled": item.enabled,
        "status": status(Endpoint.State.Name(item.state)),
        "status_reason": item.state_reason,
        "degraded": item.degraded,
        "queue_position": item.queue_position or None,
        "ever_ready": item.ever_ready,
        "routing_key": item.routing_key,
        "url": url,
        "wanted_replicas": item.wanted_replicas,
        "replicas": [replica(one) for one in item.replicas],
        "created_at": time(item, "create_time"),
        "updated_at": time(item, "update_time"),
        "version": item.version,
        "etag": item.etag,
        "deployment": item.deployment,
        "rollout": _rollout(item.rollout) if item.HasField("rollout") else None,
    }


def _rollout(item: Rollout) -> Json:
    strategy = UpdateStrategy.Name(item.strategy)
    return {
        "status": status(Rollout.State.Name(item.state)),
        "reason": item.reason,
        "strategy": strategy.removeprefix("UPDATE_STRATEGY_").lower(),
        "updated_replicas": item.updated_replicas,
        "previous": {
            "deployment": item.previous.number,
            "checkpoint_id": item.previous.checkpoint_id,
            "checkpoint_digest": item.previous.checkpoint_digest or None,
            "gpu_type": item.previous.gpu_type,
            "gpu_count": item.previous.gpu_count,
            "serving": serving(item.previous.serving),
        },
        "started_at": time(item, "start_time"),
    }


def replica(item: Replica) -> Json:
    """Return a replica."""
    return {
        "id": item.replica_id,
        "replica_id": item.replica_id,
        "status": status(Replica.State.Name(item.state)),
        "status_reason": item.state_reason,
        "node_id": item.node_id,
        "gpus": list(item.gpus),
        "capacity": item.capacity,
        "deployment": item.deployment,
        "leaving": item.leaving or None,
        "engine_digest": item.engine_digest or None,
        "engine_backend": item.engine_backend or None,
        "engine_kind": item.engine_kind or None,
        "progress": round(item.progress, 4),
        "progress_message": item.progress_message,
        "created_at": time(item, "create_time"),
    }


def template(item: Template) -> Json:
    """Return a template with its flavors."""
    return {
        "id": item.model_name,
        "model_name": item.model_name,
        "description": item.description,
        "checkpoint_id": item.checkpoint_id or None,
        "flavors": [_flavor(one) for one in item.flavors],
    }


def checkpoint(item: Checkpoint, *, files: bool = False) -> Json:
    """Return a checkpoint, with its manifest if `files`."""
    view = {
        "id": item.checkpoint_id,
        "checkpoint_id": item.checkpoint_id,
        "org_id": item.org_id,
        "name": item.name,
        "status": status(Checkpoint.State.Name(item.state)),
        "status_reason": item.state_reason,
        "uri": item.source_uri,
        "digest": item.digest,
        "size_bytes": item.size_bytes,
        "architecture": item.architecture,
        "parameter_count": item.parameter_count,
        "dtype": item.dtype,
        "max_position_embeddings": item.max_position_embeddings or None,
        "base_model": item.base_model or None,
        "producer_job_id": item.producer_job_id or None,
        "has_chat_template": item.has_chat_template,
        "progress": {
            "done_bytes": item.progress.done_bytes,
            "total_bytes": item.progress.total_bytes,
        },
        "created_at": time(item, "create_time"),
        "updated_at": time(item, "update_time"),
        "etag": item.etag,
    }
    if files:
        view["files"] = [
            {"path": one.path, "size_bytes": one.size_bytes, "sha256": one.sha256}
            for one in item.files
        ]
    return view


def node(item: Node) -> Json:
    """Return a node and who holds its GPUs."""
    offer = item.inventory
    return {
        "id": item.node_id,
        "node_id": item.node_id,
        "status": status(Node.State.Name(item.state)),
        "status_reason": item.reason,
        "hostname": offer.hostname,
        "region": offer.region,
        "gpu_type": offer.gpu_type,
        "gpu_count": offer.gpu_count,
        "gpu_memory_bytes": offer.gpu_memory_bytes,
        "driver": offer.driver or None,
        "simulated": offer.simulated,
        "backends": list(offer.backends),
        "agent_version": offer.agent_version,
        "gpu_product": offer.gpu_product or None,
        "compute_capability": offer.compute_capability or None,
        "gpu_uuids": list(offer.gpu_uuids),
        "versions": dict(offer.versions),
        "gpus": [
            {
                "index": one.index,
                "replica_id": one.replica_id or None,
                "endpoint_id": one.endpoint_id or None,
                "org_id": one.org_id or None,
            }
            for one in item.gpus
        ],
        "joined_at": time(item, "join_time"),
        "heard_at": time(item, "heard_time"),
    }


def token(item: Token) -> Json:
    """Return a token without its secret."""
    return {
        "id": item.token_id,
        "token_id": item.token_id,
        "org_id": item.org_id,
        "name": item.name,
        "scopes": list(item.scopes),
        "created_at": time(item, "create_time"),
        "expires_at": time(item, "expire_time"),
        "revoked_at": time(item, "revoke_time"),
    }


def organization(item: Organization) -> Json:
    """Return an organization."""
    return {
        "id": item.org_id,
        "org_id": item.org_id,
        "slug": item.slug,
        "created_at": time(item, "create_time"),
    }


def event(item: Event) -> Json:
    """Return an event with its envelope; `data` is the message in protobuf's JSON form."""
    full_name = item.data.TypeName()
    data = MessageToDict(item.data, preserving_proto_field_name=True)
    data.pop("@type", None)
    return {
        "id": item.event_id,
        "event_id": item.event_id,
        "position": item.position,
        "stream": item.stream,
        "version": item.version,
        "type": full_name,
        "name": full_name.rpartition(".")[2],
        "time": time(item, "recorded_at"),
        "actor": item.actor,
        "request_id": item.request_id,
        "causation_id": item.causation_id,
        "data": data,
    }


def log_line(item: StoredLine) -> Json:
    """Return a line of a replica's log."""
    return {
        "sequence": item.sequence,
        "time": item.time.isoformat().replace("+00:00", "Z"),
        "replica_id": item.replica_id,
        "source": item.source,
        "line": item.line,
    }


def lineage(served: Endpoint, source: Checkpoint) -> Json:
    """Return the chain from an endpoint back to where its weights came from."""
    return {
        "endpoint": {
            "id": served.endpoint_id,
            "endpoint_id": served.endpoint_id,
            "name": served.name,
            "status": status(Endpoint.State.Name(served.state)),
            "routing_key": served.routing_key,
            "serving": serving(served.serving),
        },
        "engines": [
            {
                "replica_id": one.replica_id,
                "status": status(Replica.State.Name(one.state)),
                "engine_digest": one.engine_digest,
                "engine_backend": one.engine_backend,
            }
            for one in served.replicas
            if one.engine_digest
        ],
        "checkpoint": checkpoint(source, files=True),
        "job": None,
        "dataset": None,
    }


def _flavor(item: Flavor) -> Json:
    return {
        "flavor_name": item.flavor_name,
        "description": item.description,
        "serving": serving(item),
        "gpu_types": list(item.gpu_types),
        "gpu_counts": list(item.gpu_counts),
        "regions": list(item.regions),
    }


def serving(item: ServingParameters | Flavor) -> Json:
    """Return how a model is served; null: as the checkpoint states, or the back end likes."""
    return {
        "max_context": item.max_context or None,
        "precision": item.precision or None,
        "quantization": item.quantization or None,
        "max_batch_size": item.max_batch_size or None,
        "max_batch_tokens": item.max_batch_tokens or None,
        "kv_cache_fraction": item.kv_cache_fraction or None,
    }


def status(name: str) -> str:
    """Return the name of a state as the API has it."""
    return name.removeprefix("STATE_").lower()
