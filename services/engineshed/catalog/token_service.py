"""TokenService over gRPC."""

from typing import Any

from grpc.aio import ServicerContext

from engineshed import ids
from engineshed.api.catalog.v1 import token_service_pb2 as pb
from engineshed.api.catalog.v1.token_service_pb2_grpc import TokenServiceServicer
from engineshed.auth import hash_token, new_secret
from engineshed.catalog.commands import by_caller, fold_token, moment_of, once, recall
from engineshed.catalog.domain.organization import OrganizationNotFoundError
from engineshed.catalog.domain.token import (
    Create,
    Event,
    Giver,
    Revoke,
    Token,
    TokenAlreadyCreatedError,
    TokenNotFoundError,
    decide,
    stream_of,
)
from engineshed.catalog.pages import PageRequest
from engineshed.catalog.store import CatalogStore, keep_hash
from engineshed.eventstore import RequestRepeatedError, StreamAppend, handle
from engineshed.rpc import Call, current_call
from engineshed.runtime import utc_now


class TokenServicer(TokenServiceServicer):
    """Interceptors validate the request and give errors their status before and after this."""

    def __init__(self, store: CatalogStore) -> None:
        self._store = store

    async def CreateToken(
        self, request: pb.CreateTokenRequest, context: ServicerContext[Any, Any]
    ) -> pb.CreateTokenResponse:
        """Make a token and return its secret, this once."""
        call = current_call()
        token_id = ids.new(ids.TOKEN)
        idempotency = once(call, "CreateToken", request, token_id)
        known = await recall(self._store.events, idempotency)
        if known is not None:
            raise _already_created(known)
        command = _create(request, token_id, call)
        events = decide(None, command)
        if await self._store.organization(command.org_id) is None:
            raise OrganizationNotFoundError.of(command.org_id)
        secret = new_secret()
        append = StreamAppend(stream_of(token_id), 0, events, by_caller(call, command.org_id))
        try:
            await self._store.events.append(
                append, idempotency=idempotency, write=keep_hash(hash_token(secret), token_id)
            )
        except RequestRepeatedError as error:
            raise _already_created(error.response.decode()) from error
        return pb.CreateTokenResponse(token=await self._get(token_id), secret=secret)

    async def ListTokens(
        self, request: pb.ListTokensRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListTokensResponse:
        """Return a page of the organization's tokens, without secrets."""
        page = await self._store.tokens(
            current_call().principal.org_id, PageRequest.of(request.page_size, request.page_token)
        )
        return pb.ListTokensResponse(tokens=page.items, next_page_token=page.next_token)

    async def RevokeToken(
        self, request: pb.RevokeTokenRequest, context: ServicerContext[Any, Any]
    ) -> pb.RevokeTokenResponse:
        """End a token."""
        call = current_call()
        token = await self._get(request.token_id)
        command = Revoke(request.token_id, _giver(call))

        def revoke(state: Token | None) -> list[Event]:
            return decide(state, command)

        stream = stream_of(request.token_id)
        metadata = by_caller(call, token.org_id)
        await handle(self._store.events, stream, fold_token, revoke, metadata)
        return pb.RevokeTokenResponse(token=await self._get(request.token_id))

    async def IntrospectToken(
        self, request: pb.IntrospectTokenRequest, context: ServicerContext[Any, Any]
    ) -> pb.IntrospectTokenResponse:
        """Tell a service what a token may do."""
        grant = await self._store.grant(request.secret_sha256)
        if grant is None:
            raise TokenNotFoundError("there is no token with this hash")
        return pb.IntrospectTokenResponse(grant=grant)

    async def _get(self, token_id: str) -> pb.Token:
        token = await self._store.token(token_id)
        if token is None:
            raise TokenNotFoundError.of(token_id)
        return token


def _create(request: pb.CreateTokenRequest, token_id: str, call: Call) -> Create:
    expires = request.HasField("expire_time")
    return Create(
        token_id=token_id,
        org_id=request.org_id or call.principal.org_id,
        name=request.name,
        scopes=tuple(request.scopes),
        expire_time=moment_of(request.expire_time, "expire_time") if expires else None,
        giver=_giver(call),
        now=utc_now(),
    )


def _giver(call: Call) -> Giver:
    return Giver(call.principal.org_id, call.principal.scopes)


def _already_created(token_id: str) -> TokenAlreadyCreatedError:
    return TokenAlreadyCreatedError(
        f"request_id: it made the token {token_id} before, whose secret cannot be shown again; "
        "revoke that one and take a new request_id",
        token_id=token_id,
    )
