"""A catalog as far as the scheduler sees it; what it says is for the test to choose."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import grpc
from grpc_status import rpc_status

from engineshed import ids
from engineshed.api.catalog.v1 import (
    checkpoint_service_pb2,
    checkpoint_service_pb2_grpc,
    hold_service_pb2,
    hold_service_pb2_grpc,
    template_service_pb2,
    template_service_pb2_grpc,
    token_service_pb2,
    token_service_pb2_grpc,
)
from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint, ModelShape
from engineshed.api.catalog.v1.template_service_pb2 import Flavor, Template
from engineshed.api.catalog.v1.token_service_pb2 import TokenGrant
from engineshed.auth import hash_token
from engineshed.errors import DomainError, Kind
from engineshed.rpc import to_status

TOKEN = "svc_scheduler_of-the-tests"


class NotFoundError(DomainError):
    """The catalog does not have it."""

    kind = Kind.NOT_FOUND
    reason = "CHECKPOINT_NOT_FOUND"


class FailedError(DomainError):
    """The checkpoint could not be registered."""

    kind = Kind.REFUSED
    reason = "CHECKPOINT_FAILED"


class FakeCatalog:
    """Templates, checkpoints, holds and tokens in memory, over real gRPC."""

    def __init__(self) -> None:
        self.templates = {
            "custom": Template(model_name="custom", flavors=[Flavor(flavor_name="base")])
        }
        self.checkpoints: dict[str, Checkpoint] = {}
        self.holds: set[tuple[str, str]] = set()  # checkpoint, endpoint
        self.grants: dict[str, TokenGrant] = {}
        self.away = False
        self.on_hold: Callable[[str], None] = lambda _: None  # called with each held checkpoint
        self._numbers = count(1)
        self._server = grpc.server(ThreadPoolExecutor(8))
        services = _Services(self)  # type: ignore[abstract]  # the scheduler calls no more of them
        checkpoint_service_pb2_grpc.add_CheckpointServiceServicer_to_server(services, self._server)
        hold_service_pb2_grpc.add_HoldServiceServicer_to_server(services, self._server)
        template_service_pb2_grpc.add_TemplateServiceServicer_to_server(services, self._server)
        token_service_pb2_grpc.add_TokenServiceServicer_to_server(services, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def token(self, org_id: str, *scopes: str) -> str:
        """Return the secret of a new token."""
        secret = f"es_{next(self._numbers)}"
        self.grants[hash_token(secret)] = TokenGrant(
            token_id=ids.new(ids.TOKEN), org_id=org_id, scopes=scopes
        )
        return secret

    def checkpoint(
        self,
        org_id: str,
        state: Checkpoint.State.ValueType = Checkpoint.STATE_REGISTERED,
    ) -> str:
        """Return the id of a new checkpoint."""
        checkpoint_id = ids.new(ids.CHECKPOINT)
        self.checkpoints[checkpoint_id] = Checkpoint(
            checkpoint_id=checkpoint_id,
            org_id=org_id,
            state=state,
            location=f"checkpoints/{checkpoint_id}",
            digest=f"sha256:{checkpoint_id}" if state == Checkpoint.STATE_REGISTERED else "",
        )
        return checkpoint_id

    def large_checkpoint(
        self,
        org_id: str,
        state: Checkpoint.State.ValueType = Checkpoint.STATE_REGISTERED,
    ) -> str:
        """Return the id of a new checkpoint with eight billion parameters."""
        checkpoint_id = self.checkpoint(org_id, state)
        self.checkpoints[checkpoint_id].MergeFrom(
            Checkpoint(
                architecture="LlamaForCausalLM",
                parameter_count=8_030_261_248,
                max_position_embeddings=131_072,
                shape=ModelShape(
                    quantizable_parameters=6_979_321_856,
                    weight_bytes=16_060_522_496,
                    attending_layers=32,
                    kv_heads=8,
                    head_dim=128,
                    hidden_size=4096,
                ),
            )
        )
        return checkpoint_id

    def settle(
        self, checkpoint_id: str, state: Checkpoint.State.ValueType, reason: str = ""
    ) -> None:
        """Let registering end, in this state."""
        checkpoint = self.checkpoints[checkpoint_id]
        if state == Checkpoint.STATE_REGISTERED:
            checkpoint.digest = f"sha256:{checkpoint_id}"
        checkpoint.state = state
        checkpoint.state_reason = reason

    def held_for(self, org_id: str) -> set[str]:
        """Return the endpoints that hold checkpoints of an organization."""
        return {
            endpoint_id
            for checkpoint_id, endpoint_id in self.holds
            if self.checkpoints[checkpoint_id].org_id == org_id
        }


class _Services(
    checkpoint_service_pb2_grpc.CheckpointServiceServicer,
    hold_service_pb2_grpc.HoldServiceServicer,
    template_service_pb2_grpc.TemplateServiceServicer,
    token_service_pb2_grpc.TokenServiceServicer,
):
    def __init__(self, catalog: FakeCatalog) -> None:
        self._catalog = catalog

    def GetTemplate(self, request, context):
        self._admit(context)
        template = self._catalog.templates.get(request.model_name)
        if template is None:
            _refuse(context, NotFoundError(f"there is no template {request.model_name}"))
        return template_service_pb2.GetTemplateResponse(template=template)

    def CreateHold(self, request, context):
        self._admit(context)
        checkpoint = self._found(request.checkpoint_id, context)
        if checkpoint.state == Checkpoint.STATE_DELETED or checkpoint.org_id not in (
            request.org_id,
            ids.PLATFORM,
        ):
            _refuse(context, NotFoundError(f"there is no checkpoint {request.checkpoint_id}"))
        if checkpoint.state == Checkpoint.STATE_FAILED:
            _refuse(context, FailedError("it could not be registered"))
        self._catalog.holds.add((request.checkpoint_id, request.holder_id))
        self._catalog.on_hold(request.checkpoint_id)
        return hold_service_pb2.CreateHoldResponse(checkpoint=checkpoint)

    def DeleteHold(self, request, context):
        self._admit(context)
        self._catalog.holds.discard((request.checkpoint_id, request.holder_id))
        return hold_service_pb2.DeleteHoldResponse()

    def GetCheckpoint(self, request, context):
        self._admit(context)
        checkpoint = self._found(request.checkpoint_id, context)
        return checkpoint_service_pb2.GetCheckpointResponse(checkpoint=checkpoint)

    def IntrospectToken(self, request, context):
        self._admit(context)
        grant = self._catalog.grants.get(request.secret_sha256)
        if grant is None:
            _refuse(context, NotFoundError("there is no such token"))
        return token_service_pb2.IntrospectTokenResponse(grant=grant)

    def _admit(self, context) -> None:
        if self._catalog.away:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        if ("authorization", f"Bearer {TOKEN}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

    def _found(self, checkpoint_id: str, context) -> Checkpoint:
        if checkpoint_id not in self._catalog.checkpoints:
            _refuse(context, NotFoundError(f"there is no checkpoint {checkpoint_id}"))
        return self._catalog.checkpoints[checkpoint_id]


def _refuse(context, error: DomainError) -> None:
    context.abort_with_status(rpc_status.to_status(to_status(error)))
