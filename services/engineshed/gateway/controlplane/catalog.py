"""/v0/checkpoints, /v0/tokens and /v0/organizations."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from engineshed.api.catalog.v1 import checkpoint_service_pb2 as checkpoints
from engineshed.api.catalog.v1 import organization_service_pb2 as organizations
from engineshed.api.catalog.v1 import token_service_pb2 as tokens
from engineshed.gateway.controlplane import schemas, views
from engineshed.gateway.controlplane.clients import CallerDep
from engineshed.gateway.controlplane.models import (
    CreateCheckpoint,
    CreateOrganization,
    CreateToken,
)
from engineshed.gateway.controlplane.parameters import (
    AsOf,
    CheckpointId,
    IdempotencyKey,
    IfMatch,
    OrganizationId,
    PageSize,
    PageToken,
    ShowDeleted,
    TokenId,
    etag_of,
)
from engineshed.gateway.controlplane.views import Json
from engineshed.runtime import to_timestamp

router = APIRouter(prefix="/v0")


@router.post(
    "/checkpoints",
    status_code=HTTPStatus.CREATED,
    response_model=schemas.Checkpoint,
    tags=["checkpoints"],
)
async def create_checkpoint(
    body: CreateCheckpoint, caller: CallerDep, response: Response, key: IdempotencyKey = ""
) -> Json:
    """Register a checkpoint: it is copied and hashed in the background, with progress."""
    message = checkpoints.CreateCheckpointRequest(
        name=body.name,
        uri=body.uri,
        base_model=body.base_model,
        digest=body.digest,
        sha256=body.sha256,
        request_id=key,
    )
    reply = await caller.services.checkpoints.CreateCheckpoint(message, metadata=caller.metadata)
    response.headers["location"] = f"/v0/checkpoints/{reply.checkpoint.checkpoint_id}"
    return views.checkpoint(reply.checkpoint)


@router.get("/checkpoints", response_model=schemas.Page[schemas.Checkpoint], tags=["checkpoints"])
async def list_checkpoints(
    caller: CallerDep,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    show_deleted: ShowDeleted = False,
) -> Json:
    """List the organization's checkpoints, newest first."""
    reply = await caller.services.checkpoints.ListCheckpoints(
        checkpoints.ListCheckpointsRequest(
            page_size=page_size, page_token=page_token, show_deleted=show_deleted
        ),
        metadata=caller.metadata,
    )
    return views.page([views.checkpoint(item) for item in reply.checkpoints], reply.next_page_token)


@router.get(
    "/checkpoints/{checkpoint_id}", response_model=schemas.CheckpointWithFiles, tags=["checkpoints"]
)
async def get_checkpoint(
    checkpoint_id: CheckpointId,
    caller: CallerDep,
    response: Response,
    show_deleted: ShowDeleted = False,
    as_of: AsOf = None,
) -> Json:
    """Return one checkpoint with its files."""
    message = checkpoints.GetCheckpointRequest(
        checkpoint_id=checkpoint_id,
        show_deleted=show_deleted,
        as_of=to_timestamp(as_of) if as_of else None,
    )
    reply = await caller.services.checkpoints.GetCheckpoint(message, metadata=caller.metadata)
    response.headers["etag"] = f'"{reply.checkpoint.etag}"'
    return views.checkpoint(reply.checkpoint, files=True)


@router.delete(
    "/checkpoints/{checkpoint_id}", response_model=schemas.Checkpoint, tags=["checkpoints"]
)
async def delete_checkpoint(
    checkpoint_id: CheckpointId, caller: CallerDep, if_match: IfMatch = ""
) -> Json:
    """Hide a checkpoint; its bytes go once no endpoint serves it."""
    message = checkpoints.DeleteCheckpointRequest(
        checkpoint_id=checkpoint_id, etag=etag_of(if_match)
    )
    reply = await caller.services.checkpoints.DeleteCheckpoint(message, metadata=caller.metadata)
    return views.checkpoint(reply.checkpoint)


@router.post(
    "/tokens",
    status_code=HTTPStatus.CREATED,
    response_model=schemas.TokenWithSecret,
    tags=["tokens"],
)
async def create_token(body: CreateToken, caller: CallerDep, key: IdempotencyKey = "") -> Json:
    """Make an API token; the answer carries its secret, this once."""
    message = tokens.CreateTokenRequest(
        name=body.name,
        scopes=body.scopes,
        expire_time=to_timestamp(body.expires_at) if body.expires_at else None,
        org_id=body.org_id,
        request_id=key,
    )
    reply = await caller.services.tokens.CreateToken(message, metadata=caller.metadata)
    return {**views.token(reply.token), "token": reply.secret}


@router.get("/tokens", response_model=schemas.Page[schemas.Token], tags=["tokens"])
async def list_tokens(
    caller: CallerDep, page_size: PageSize = 0, page_token: PageToken = ""
) -> Json:
    """List the organization's tokens, without their secrets."""
    reply = await caller.services.tokens.ListTokens(
        tokens.ListTokensRequest(page_size=page_size, page_token=page_token),
        metadata=caller.metadata,
    )
    return views.page([views.token(item) for item in reply.tokens], reply.next_page_token)


@router.delete("/tokens/{token_id}", response_model=schemas.Token, tags=["tokens"])
async def revoke_token(token_id: TokenId, caller: CallerDep) -> Json:
    """End a token at once."""
    reply = await caller.services.tokens.RevokeToken(
        tokens.RevokeTokenRequest(token_id=token_id), metadata=caller.metadata
    )
    return views.token(reply.token)


@router.post(
    "/organizations",
    status_code=HTTPStatus.CREATED,
    response_model=schemas.Organization,
    tags=["organizations"],
)
async def create_organization(
    body: CreateOrganization, caller: CallerDep, key: IdempotencyKey = ""
) -> Json:
    """Add an organization (operators)."""
    reply = await caller.services.organizations.CreateOrganization(
        organizations.CreateOrganizationRequest(slug=body.slug, request_id=key),
        metadata=caller.metadata,
    )
    return views.organization(reply.organization)


@router.get(
    "/organizations", response_model=schemas.Page[schemas.Organization], tags=["organizations"]
)
async def list_organizations(
    caller: CallerDep, page_size: PageSize = 0, page_token: PageToken = ""
) -> Json:
    """List all organizations (operators)."""
    reply = await caller.services.organizations.ListOrganizations(
        organizations.ListOrganizationsRequest(page_size=page_size, page_token=page_token),
        metadata=caller.metadata,
    )
    return views.page(
        [views.organization(item) for item in reply.organizations], reply.next_page_token
    )


@router.get("/organizations/{org_id}", response_model=schemas.Organization, tags=["organizations"])
async def get_organization(org_id: OrganizationId, caller: CallerDep) -> Json:
    """Return one organization (operators)."""
    reply = await caller.services.organizations.GetOrganization(
        organizations.GetOrganizationRequest(org_id=org_id), metadata=caller.metadata
    )
    return views.organization(reply.organization)
