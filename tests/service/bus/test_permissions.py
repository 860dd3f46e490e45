"""What each user of the embedded broker may do, and what it may not."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig

from engineshed.api.catalog.v1.token_service_pb2 import TokenGrant
from engineshed.api.scheduler.v1.route_pb2 import Route
from engineshed.bus import ROUTES, TOKENS, Bus, KeyValueOwner, consume, ensure_streams
from engineshed.bus.embedded import config_path, write_config

from .conftest import Broker, Connect, eventually

EVENTS = "ENGINESHED_EVENTS"
LOGS = "ENGINESHED_LOGS"
SERVICES = ["catalog", "scheduler", "agent", "gateway"]
USERS = [*SERVICES, "subscriber"]


async def no_routes() -> dict[str, Route]:
    return {}


async def no_tokens() -> dict[str, TokenGrant]:
    return {}


async def ignore(event: object) -> None:
    """Handle an event by doing nothing."""


@pytest.fixture
async def platform(broker: Broker, connect: Connect, background) -> Bus:
    """Everything in the broker that a running platform has."""
    scheduler, catalog = await connect("scheduler"), await connect("catalog")
    scheduler.on_connect(lambda: ensure_streams(scheduler))
    background(KeyValueOwner(scheduler, ROUTES, no_routes).run())
    background(KeyValueOwner(catalog, TOKENS, no_tokens).run())
    background(consume(catalog, "catalog", ["engineshed.events.v1.>"], ignore))

    async def complete() -> bool:
        with suppress(Exception):
            await scheduler.call(lambda js: js.stream_info("KV_routes"))
            await catalog.call(lambda js: js.stream_info("KV_tokens"))
            await catalog.call(lambda js: js.consumer_info(EVENTS, catalog.durable_name("catalog")))
            await scheduler.call(lambda js: js.stream_info(LOGS))
            return True
        return False

    await eventually(complete)
    return catalog


class User:
    """A raw client, and what the broker refused it."""

    def __init__(self, client: Client, refused: list[str]) -> None:
        self.client = client
        self.refused = refused

    async def may_publish(self, subject: str) -> bool:
        self.refused.clear()
        await self.client.publish(subject, b"{}")
        return await self._no_complaint()

    async def may_subscribe(self, subject: str) -> bool:
        self.refused.clear()
        subscription = await self.client.subscribe(subject)
        accepted = await self._no_complaint()
        await subscription.unsubscribe()
        return accepted

    async def _no_complaint(self) -> bool:
        """See whether the broker complains before it answers a ping."""
        await self.client.flush()  # this ping may overtake what is still to be sent
        await self.client.flush()
        return not self.refused


@pytest.fixture
async def user(broker: Broker, request: pytest.FixtureRequest) -> AsyncIterator[User]:
    name = request.param
    refused: list[str] = []

    async def on_error(error: Exception) -> None:
        refused.append(str(error))

    prefix = "_INBOX" if name == "subscriber" else f"_INBOX_{name}"
    client = await nats.connect(broker.urls[name], error_cb=on_error, inbox_prefix=prefix)
    yield User(client, refused)
    await client.close()


# Subject, and who may publish on it.
PUBLISH = {
    "engineshed.events.v1.scheduler.org_01.endpoint.ep_01.EndpointCreated": {"scheduler"},
    "engineshed.events.v1.catalog.org_01.token.tok_01.TokenCreated": {"catalog"},
    "engineshed.events.v1.ledger.org_01.x.y.Z": set(),
    "engineshed.logs.v1.org_01.ep_01.rep_01.front": {"agent"},
    "$KV.routes.key": {"scheduler"},
    "$KV.tokens.key": {"catalog"},
    f"$JS.API.STREAM.CREATE.{EVENTS}": {"catalog", "scheduler"},
    f"$JS.API.STREAM.UPDATE.{EVENTS}": {"catalog", "scheduler"},
    f"$JS.API.STREAM.DELETE.{EVENTS}": set(),
    f"$JS.API.STREAM.PURGE.{EVENTS}": set(),
    f"$JS.API.STREAM.MSG.DELETE.{EVENTS}": set(),
    f"$JS.API.STREAM.MSG.GET.{EVENTS}": {"catalog", "scheduler"},
    f"$JS.API.STREAM.DELETE.{LOGS}": set(),
    f"$JS.API.STREAM.INFO.{LOGS}": {"catalog", "scheduler", "gateway"},
    f"$JS.API.CONSUMER.CREATE.{LOGS}": {"gateway"},
    f"$JS.API.CONSUMER.CREATE.{EVENTS}": {"subscriber"},
    f"$JS.API.CONSUMER.CREATE.{EVENTS}.mine": set(),
    f"$JS.API.CONSUMER.DURABLE.CREATE.{EVENTS}.mine": set(),
    f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS}.mine": set(),
    f"$JS.API.CONSUMER.DELETE.{EVENTS}.mine": set(),
    f"$JS.API.CONSUMER.LIST.{EVENTS}": set(),
    f"$JS.API.CONSUMER.NAMES.{EVENTS}": set(),
    f"$JS.FC.{EVENTS}.consumer.token": {"subscriber"},
    "$JS.API.STREAM.NAMES": {"subscriber"},
    "$JS.API.STREAM.LIST": set(),
    "$JS.API.STREAM.INFO.KV_routes": {"scheduler", "gateway"},
    "$JS.API.STREAM.INFO.KV_tokens": {"catalog", "scheduler", "gateway"},
    "$JS.API.STREAM.CREATE.KV_routes": {"scheduler"},
    "$JS.API.STREAM.UPDATE.KV_routes": set(),
    "$JS.API.STREAM.DELETE.KV_routes": set(),
    "$JS.API.STREAM.PURGE.KV_routes": set(),
    "$JS.API.CONSUMER.CREATE.KV_routes": {"scheduler", "gateway"},
    "$JS.API.CONSUMER.CREATE.KV_tokens": {"catalog", "scheduler", "gateway"},
    "$JS.API.CONSUMER.MSG.NEXT.KV_tokens.any": {"catalog", "scheduler", "gateway"},
    "$JS.API.STREAM.MSG.GET.KV_tokens": {"catalog"},
    "$JS.API.DIRECT.GET.KV_tokens": set(),
    "$JS.API.INFO": set(),
    "_INBOX.other": set(),
    "_INBOX_gateway.other": set(),
    "anything": set(),
}


@pytest.mark.parametrize("user", USERS, indirect=True, ids=str)
async def test_everybody_may_publish_only_what_is_theirs(
    user: User, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["user"]
    allowed = {subject for subject in PUBLISH if await user.may_publish(subject)}

    assert allowed == {subject for subject, who in PUBLISH.items() if name in who}


@pytest.mark.parametrize("user", USERS, indirect=True, ids=str)
async def test_everybody_may_hear_only_their_own_inbox(
    user: User, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["user"]
    inboxes = {other: f"_INBOX_{other}.>" for other in SERVICES} | {"subscriber": "_INBOX.>"}
    others = ["$KV.>", "$JS.>", "engineshed.>", "engineshed.events.v1.>", "$SYS.>", ">", "*.>"]

    heard = {
        subject for subject in [*inboxes.values(), *others] if await user.may_subscribe(subject)
    }

    assert heard == {inboxes[name]}


async def test_a_subscriber_cannot_change_a_durable_consumer(broker: Broker, platform: Bus) -> None:
    subscriber = await nats.connect(broker.urls["subscriber"])
    # What the request's own rules leave open: a nameless request that states a name.
    guess = ConsumerConfig(
        ack_policy=AckPolicy.EXPLICIT, filter_subjects=["engineshed.events.v1.x"]
    )
    request = {"stream_name": EVENTS, "config": {**guess.as_dict(), "name": "catalog"}}

    await subscriber.request(f"$JS.API.CONSUMER.CREATE.{EVENTS}", json.dumps(request).encode())
    await subscriber.close()

    info = await platform.call(
        lambda js: js.consumer_info(EVENTS, platform.durable_name("catalog"))
    )
    assert info.config.filter_subjects == ["engineshed.events.v1.>"]
    assert info.config.durable_name == platform.durable_name("catalog")


async def test_a_subscriber_cannot_have_events_delivered_to_where_it_may_not_write(
    broker: Broker, platform: Bus
) -> None:
    subscriber = await nats.connect(broker.urls["subscriber"])
    for target in ("$KV.tokens.forged", "$JS.API.STREAM.DELETE.KV_tokens"):
        config = {"deliver_subject": target, "ack_policy": "none", "headers_only": True}
        request = {"stream_name": EVENTS, "config": config}
        await subscriber.request(f"$JS.API.CONSUMER.CREATE.{EVENTS}", json.dumps(request).encode())

    scheduler = await nats.connect(broker.urls["catalog"], inbox_prefix="_INBOX_catalog")
    ack = await scheduler.jetstream().publish("engineshed.events.v1.catalog.o.token.t.E", b"x")
    sub = await subscriber.jetstream().subscribe("engineshed.events.v1.>", ordered_consumer=True)
    assert (await sub.next_msg(timeout=10)).metadata.sequence.stream == ack.seq
    await asyncio.gather(subscriber.close(), scheduler.close())

    info = await platform.call(lambda js: js.stream_info("KV_tokens"))
    assert info.state.messages == 0


@pytest.mark.parametrize(
    "url", ["nats://127.0.0.1:{port}", "nats://gateway:wrong@127.0.0.1:{port}"]
)
async def test_nobody_connects_without_their_password(broker: Broker, url: str) -> None:
    with pytest.raises(NatsError, match="Authorization"):
        await nats.connect(url.format(port=broker.port), allow_reconnect=False)


async def test_the_subscribers_url_stands_where_it_is_promised(broker: Broker) -> None:
    path = broker.state_dir / "nats.url"

    client = await nats.connect(path.read_text())
    await client.close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_secrets_are_readable_by_their_owner_alone_and_stand_in_no_configuration(
    tmp_path: Path,
) -> None:
    users = write_config(tmp_path, 4222)
    files = [*(tmp_path / "credentials").iterdir(), tmp_path / "nats.url", config_path(tmp_path)]

    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert len(files) == len(USERS) + 2
    folders = [tmp_path / "credentials", tmp_path / "nats"]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    configuration = config_path(tmp_path).read_text()
    passwords = {urlsplit(url).password for url in users.urls.values()}
    assert len(passwords) == len(USERS)
    for password in passwords:
        assert password
        assert password not in configuration
        assert password not in repr(users)


def test_passwords_stay_when_the_configuration_is_written_again(tmp_path: Path) -> None:
    before = write_config(tmp_path, 4222).urls
    after = write_config(tmp_path, 5222).urls

    assert after == {name: url.replace(":4222", ":5222") for name, url in before.items()}
    assert (tmp_path / "credentials" / "nats-agent.url").read_text() == after["agent"]
