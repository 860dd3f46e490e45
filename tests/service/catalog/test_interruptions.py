"""Whatever is killed when, and whatever is away: nothing is lost and nothing stays half made."""

import asyncio
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import nats
import pytest
from tests.service.eventstore.servers import ON_EACH_DATABASE

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint, DeleteCheckpointRequest
from engineshed.api.catalog.v1.organization_service_pb2 import ListOrganizationsRequest
from engineshed.api.catalog.v1.template_service_pb2 import GetTemplateRequest
from engineshed.api.catalog.v1.token_service_pb2 import ListTokensRequest

from .conftest import Caller, Catalog, eventually
from .models import write_model, write_sparse

CallAs = Callable[[Catalog, str], Caller]


def _large_model(catalog: Catalog) -> Path:
    source = write_model(catalog.imports / "large", model__safetensors=None)
    write_sparse(source / "model.safetensors", 2**28)
    return source


def _kill_while_copying(catalog: Catalog, checkpoint_id: str) -> None:
    """Kill the catalog as soon as it has begun to write a copy."""
    deadline = time.monotonic() + 20
    while not list(catalog.artifacts.glob(f"{checkpoint_id}.tmp-*/model.safetensors")):
        assert time.monotonic() < deadline
    catalog.kill()
    assert not (catalog.artifacts / checkpoint_id).exists(), "it was quicker than the kill"


@ON_EACH_DATABASE
async def test_a_registration_that_was_killed_is_done_at_the_next_start(
    own_catalog: Callable[..., Catalog], call: CallAs
) -> None:
    catalog = own_catalog()
    catalog.start()
    source = _large_model(catalog)
    operator = call(catalog, catalog.admin)
    begun = await operator.register(source)
    _kill_while_copying(catalog, begun.checkpoint_id)

    catalog.start()
    record = await operator.settled(begun.checkpoint_id)

    assert record.state == Checkpoint.STATE_REGISTERED, record.state_reason
    assert [path.name for path in catalog.artifacts.glob(f"{begun.checkpoint_id}*")] == [
        begun.checkpoint_id
    ]


@pytest.mark.parametrize("change", ["gone", "changed"])
async def test_a_killed_registration_fails_when_its_source_is_another_by_then(
    own_catalog: Callable[..., Catalog], call: CallAs, change: str
) -> None:
    catalog = own_catalog()
    catalog.start()
    source = _large_model(catalog)
    operator = call(catalog, catalog.admin)
    begun = await operator.register(source)
    _kill_while_copying(catalog, begun.checkpoint_id)
    if change == "gone":
        shutil.rmtree(source)
    else:
        (source / "model.safetensors").touch()

    catalog.start()
    record = await operator.settled(begun.checkpoint_id)

    assert record.state == Checkpoint.STATE_FAILED
    assert ("is missing" if change == "gone" else "written to") in record.state_reason
    await eventually(lambda: not list(catalog.artifacts.glob(f"{begun.checkpoint_id}*")))


async def test_bytes_that_cannot_be_removed_fail_their_checkpoint_and_nothing_else(
    own_catalog: Callable[..., Catalog], call: CallAs
) -> None:
    catalog = own_catalog()
    catalog.start()
    operator = call(catalog, catalog.admin)
    begun = await operator.register(_large_model(catalog))
    _kill_while_copying(catalog, begun.checkpoint_id)
    # A file in the place of a directory stands for whatever a disk refuses to remove.
    stuck = catalog.artifacts / f"{begun.checkpoint_id}.tmp-stuck"
    stuck.touch()

    catalog.start()
    record = await operator.settled(begun.checkpoint_id)

    assert record.state == Checkpoint.STATE_FAILED
    assert record.state_reason == "Not a directory"
    other = await operator.register(write_model(catalog.imports / "other"))
    assert (await operator.settled(other.checkpoint_id)).state == Checkpoint.STATE_REGISTERED


async def test_a_store_of_artifacts_that_went_away_ends_nothing(
    own_catalog: Callable[..., Catalog], call: CallAs
) -> None:
    catalog = own_catalog()
    catalog.start()
    operator = call(catalog, catalog.admin)
    begun = await operator.register(write_model(catalog.imports / "model"))
    await operator.settled(begun.checkpoint_id)
    catalog.artifacts.rename(catalog.artifacts.with_name("elsewhere"))

    request = DeleteCheckpointRequest(checkpoint_id=begun.checkpoint_id)
    await operator.checkpoints.DeleteCheckpoint(request)
    await eventually(lambda: "reclaiming later" in catalog.log)

    failing = await operator.register(write_model(catalog.imports / "other"))
    record = await operator.settled(failing.checkpoint_id)
    assert (record.state, record.state_reason) == (
        Checkpoint.STATE_FAILED,
        "No such file or directory",
    )


@ON_EACH_DATABASE
async def test_what_was_there_is_there_again_and_made_once(
    own_catalog: Callable[..., Catalog], call: CallAs
) -> None:
    catalog = own_catalog(ENGINESHED_DEFAULT_ORGANIZATION="acme")
    catalog.start()
    first = catalog.admin

    async def found() -> tuple[list[str], list[str], str]:
        caller = call(catalog, first)
        organizations = await caller.organizations.ListOrganizations(ListOrganizationsRequest())
        tokens = await caller.tokens.ListTokens(ListTokensRequest())
        template = await caller.templates.GetTemplate(
            GetTemplateRequest(model_name="engineshed/sample")
        )
        return (
            [organization.slug for organization in organizations.organizations],
            [token.token_id for token in tokens.tokens],
            template.template.checkpoint_id,
        )

    before = await found()
    catalog.kill()
    catalog.start()
    assert await found() == before
    assert before[0] == ["acme"]
    assert len(before[1]) == 1

    # A token whose file was lost is followed by another one.
    catalog.kill()
    (catalog.state_dir / "admin.token").unlink()
    catalog.start()
    assert catalog.admin != first
    tokens = await call(catalog, catalog.admin).tokens.ListTokens(ListTokensRequest())
    assert len(tokens.tokens) == 2


async def test_it_ends_in_time_in_the_middle_of_a_copy(
    own_catalog: Callable[..., Catalog], call: CallAs
) -> None:
    catalog = own_catalog()
    catalog.start()
    await call(catalog, catalog.admin).register(_large_model(catalog))

    assert catalog.kill(number=signal.SIGTERM) == 0


async def test_without_a_broker_it_works_and_its_events_follow(
    own_catalog: Callable[..., Catalog], call: CallAs
) -> None:
    catalog = own_catalog()
    catalog.start()
    operator = call(catalog, catalog.admin)
    begun = await operator.register(write_model(catalog.imports / "model"))
    record = await operator.settled(begun.checkpoint_id)
    assert record.state == Checkpoint.STATE_REGISTERED

    catalog.start_broker()

    assert await _kinds(catalog, f"checkpoint/{begun.checkpoint_id}", count=2) == [
        "CheckpointRegistrationStarted",
        "CheckpointRegistered",
    ]


async def _kinds(catalog: Catalog, stream: str, count: int) -> list[str]:
    """Return the kinds of the first events of a stream, as a subscriber sees them."""
    kinds: list[str] = []
    url = (catalog.state_dir / "nats.url").read_text()

    async def connected() -> bool:
        client = await nats.connect(url, max_reconnect_attempts=1)
        try:
            names = client.jetstream()
            await names.find_stream_name_by_subject("engineshed.events.v1.>")
        except nats.js.errors.NotFoundError:
            return False
        finally:
            await client.close()
        return True

    await eventually(connected)
    client = await nats.connect(url)
    try:
        subscription = await client.jetstream().subscribe(
            "engineshed.events.v1.>", ordered_consumer=True
        )
        async with asyncio.timeout(20):
            async for message in subscription.messages:
                assert message.headers is not None
                if message.headers["ce-subject"] == stream:
                    kinds.append(message.headers["ce-type"].rpartition(".")[2])
                if len(kinds) == count:
                    break
    finally:
        await client.close()
    return kinds
