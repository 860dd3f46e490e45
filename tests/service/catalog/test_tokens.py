"""Organizations and their tokens."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import grpc
import nats
import pytest

from engineshed.api.catalog.v1.checkpoint_service_pb2 import ListCheckpointsRequest
from engineshed.api.catalog.v1.events_pb2 import TokenCreated
from engineshed.api.catalog.v1.organization_service_pb2 import (
    CreateOrganizationRequest,
    GetOrganizationRequest,
    ListOrganizationsRequest,
    Organization,
)
from engineshed.api.catalog.v1.token_service_pb2 import (
    CreateTokenRequest,
    IntrospectTokenRequest,
    ListTokensRequest,
    RevokeTokenRequest,
)
from engineshed.auth import hash_token
from engineshed.bus import TOKENS, Bus, KeyValueWatcher
from engineshed.runtime import to_timestamp, utc_now

from .conftest import Caller, Catalog, eventually, refused

CallAs = Callable[[Catalog, str], Caller]


async def _works(caller: Caller) -> bool:
    try:
        await caller.checkpoints.ListCheckpoints(ListCheckpointsRequest())
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            raise
        return False
    return True


async def test_the_first_token_is_an_operators_and_private(
    catalog: Catalog, operator: Caller
) -> None:
    (token, *_) = (await operator.tokens.ListTokens(ListTokensRequest())).tokens
    path = catalog.state_dir / "admin.token"

    assert path.stat().st_mode & 0o777 == 0o600
    assert {"admin", "operator", "inference", "artifacts:write"} <= set(token.scopes)
    page = await operator.organizations.ListOrganizations(ListOrganizationsRequest(page_size=1))
    assert [organization.slug for organization in page.organizations] == ["default"]
    assert page.organizations[0].org_id == token.org_id


async def test_organizations_are_made_by_operators_and_once_each(operator: Caller) -> None:
    async def create(slug: str, request_id: str = "") -> Organization:
        request = CreateOrganizationRequest(slug=slug, request_id=request_id)
        answer = await operator.organizations.CreateOrganization(request)
        organization: Organization = answer.organization
        return organization

    made = await create("acme", "once")

    assert await create("acme", "once") == made
    with refused("ORGANIZATION_EXISTS"):
        await create("acme")
    with refused("REQUEST_ID_REUSED"):
        await create("other", "once")
    got = await operator.organizations.GetOrganization(GetOrganizationRequest(org_id=made.org_id))
    assert got.organization == made
    with refused("ORGANIZATION_NOT_FOUND"):
        await operator.organizations.GetOrganization(
            GetOrganizationRequest(org_id="org_01J00000000000000000000000")
        )


async def test_two_who_want_a_slug_at_once_get_one_organization(operator: Caller) -> None:
    request = CreateOrganizationRequest(slug="wanted")

    answers = await asyncio.gather(
        *(operator.organizations.CreateOrganization(request) for _ in range(8)),
        return_exceptions=True,
    )

    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1


async def test_a_token_does_what_its_scopes_say_at_once_and_no_more(
    admin: Caller, catalog: Catalog, call: CallAs
) -> None:
    reader = call(catalog, await admin.new_token("artifacts:read"))

    assert await _works(reader)
    with refused("PERMISSION_DENIED") as errors:
        await reader.tokens.ListTokens(ListTokensRequest())
    assert "admin" in errors[0].message


async def test_rights_that_are_not_held_cannot_be_given(admin: Caller, stranger: Caller) -> None:
    tokens = await stranger.tokens.ListTokens(ListTokensRequest())
    other_org = tokens.tokens[0].org_id

    with refused("SCOPE_NOT_HELD"):
        await admin.new_token("operator")
    with refused("SCOPE_NOT_HELD"):
        await admin.new_token("inference", org_id=other_org)
    with refused("INVALID_FIELD"):
        await admin.new_token("inference", expire_time=to_timestamp(utc_now()))


async def test_an_operator_cannot_make_tokens_for_nobody(operator: Caller) -> None:
    with refused("ORGANIZATION_NOT_FOUND"):
        await operator.new_token("inference", org_id="org_01J00000000000000000000000")


async def test_the_secret_is_shown_once_and_kept_nowhere(admin: Caller, catalog: Catalog) -> None:
    request = CreateTokenRequest(name="ci", scopes=["inference"], request_id="r1")
    made = await admin.tokens.CreateToken(request)

    with refused("TOKEN_ALREADY_CREATED") as errors:
        await admin.tokens.CreateToken(request)

    assert errors[0].facts["token_id"] == made.token.token_id
    stored = b"".join(path.read_bytes() for path in catalog.state_dir.glob("catalog.db*"))
    assert hash_token(made.secret).encode() in stored
    assert made.secret.encode() not in stored
    assert made.secret not in catalog.log


async def test_tokens_are_listed_newest_first_page_by_page(admin: Caller) -> None:
    for number in range(3):
        request = CreateTokenRequest(name=str(number), scopes=["inference"])
        await admin.tokens.CreateToken(request)

    first = await admin.tokens.ListTokens(ListTokensRequest(page_size=3))
    second = await admin.tokens.ListTokens(
        ListTokensRequest(page_size=3, page_token=first.next_page_token)
    )

    assert [token.name for token in first.tokens] == ["2", "1", "0"]
    assert len(second.tokens) == 1
    assert second.next_page_token == ""


async def test_a_revoked_token_ends_at_once(admin: Caller, catalog: Catalog, call: CallAs) -> None:
    request = CreateTokenRequest(name="ci", scopes=["artifacts:read"])
    made = await admin.tokens.CreateToken(request)
    caller = call(catalog, made.secret)
    assert await _works(caller)

    revoke = RevokeTokenRequest(token_id=made.token.token_id)
    revoked = (await admin.tokens.RevokeToken(revoke)).token

    assert revoked.HasField("revoke_time")
    assert not await _works(caller)
    assert (await admin.tokens.RevokeToken(revoke)).token == revoked


async def test_an_expired_token_ends_by_itself(
    admin: Caller, catalog: Catalog, call: CallAs
) -> None:
    expire_time = utc_now() + timedelta(seconds=1.5)
    secret = await admin.new_token("artifacts:read", expire_time=to_timestamp(expire_time))
    caller = call(catalog, secret)
    assert await _works(caller) or utc_now() >= expire_time

    async def expired() -> bool:
        return not await _works(caller)

    await eventually(expired)
    assert utc_now() >= expire_time


async def test_only_services_ask_what_a_token_may_do(
    admin: Caller, scheduler: Caller, catalog: Catalog, call: CallAs
) -> None:
    secret = await admin.new_token("inference")
    request = IntrospectTokenRequest(secret_sha256=hash_token(secret))

    grant = (await scheduler.tokens.IntrospectToken(request)).grant

    assert list(grant.scopes) == ["inference"]
    assert (grant.term, grant.tombstone) == (1, False)
    with refused("PERMISSION_DENIED"):
        await admin.tokens.IntrospectToken(request)
    with refused("TOKEN_NOT_FOUND"):
        await scheduler.tokens.IntrospectToken(IntrospectTokenRequest(secret_sha256="0" * 64))
    for nobody in (call(catalog, "svc_scheduler_wrong"), call(catalog, "es_unknown")):
        with refused("UNAUTHENTICATED"):
            await nobody.tokens.IntrospectToken(request)


@pytest.mark.parametrize("scopes", [[], ["root"], ["admin", "admin"]])
async def test_unknown_scopes_are_refused(admin: Caller, scopes: list[str]) -> None:
    with refused("INVALID_FIELD"):
        await admin.tokens.CreateToken(CreateTokenRequest(name="x", scopes=scopes))


async def test_gateways_learn_of_tokens_from_the_broker(admin: Caller, catalog: Catalog) -> None:
    bus = await Bus.connect(catalog.nats["gateway"], name="gateway")
    watcher = KeyValueWatcher(bus, TOKENS)
    watching = asyncio.create_task(watcher.run())
    try:
        made = await admin.tokens.CreateToken(CreateTokenRequest(name="x", scopes=["inference"]))
        key = hash_token(made.secret)
        grant = await eventually(lambda: watcher.entries.get(key))
        assert grant.token_id == made.token.token_id
        assert not grant.tombstone

        await admin.tokens.RevokeToken(RevokeTokenRequest(token_id=made.token.token_id))
        await eventually(lambda: key not in watcher.entries)
        assert hash_token(catalog.admin) in watcher.entries
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await bus.close()


async def test_every_change_is_an_event_that_carries_no_secret(
    admin: Caller, catalog: Catalog
) -> None:
    request = CreateTokenRequest(name="seen", scopes=["inference"])
    made = await admin.tokens.CreateToken(request)
    client = await nats.connect((catalog.state_dir / "nats.url").read_text())
    try:
        subscription = await client.jetstream().subscribe(
            "engineshed.events.v1.catalog.*.token.>", ordered_consumer=True
        )
        async with asyncio.timeout(20):
            async for message in subscription.messages:
                headers = message.headers or {}
                if headers["ce-subject"] == f"token/{made.token.token_id}":
                    break
        assert message.subject == (
            f"engineshed.events.v1.catalog.{made.token.org_id}.token.{made.token.token_id}"
            ".TokenCreated"
        )
        assert headers["ce-type"] == "engineshed.api.catalog.v1.TokenCreated"
        assert headers["ce-source"] == "/engineshed/catalog"
        assert headers["ce-org"] == made.token.org_id
        assert headers["ce-actor"].startswith("tok_")
        assert TokenCreated.FromString(message.data).name == "seen"
        assert hash_token(made.secret).encode() not in message.data
    finally:
        await client.close()


async def test_a_token_file_of_the_operators_own_is_taken_as_it_is(
    own_catalog: Callable[..., Catalog], call: CallAs
) -> None:
    catalog = own_catalog()
    (catalog.state_dir / "admin.token").write_text("es_" + "x" * 43 + "\n")

    catalog.start()

    assert await _works(call(catalog, "es_" + "x" * 43))
