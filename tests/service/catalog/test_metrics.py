"""What the catalog's GET /metrics says after something was done."""

from tests.metrics import is_refused, sample, scrape

from .conftest import Caller, Catalog, eventually


async def test_a_command_shows_in_its_calls_its_events_and_what_is_published(
    admin: Caller, catalog: Catalog
) -> None:
    address = catalog.settings["ENGINESHED_METRICS_LISTEN"]
    before = await scrape(address)

    await admin.new_token("inference")

    def grown(text: str, name: str, **labels: str) -> float:
        return sample(text, name, **labels) - sample(before, name, **labels)

    async def published() -> str:
        text = await scrape(address)
        done = grown(text, "engineshed_relay_published_total") >= 1
        return text if done and sample(text, "engineshed_relay_lag_events") == 0 else ""

    after = await eventually(published)
    call = {"rpc_method": "CreateToken", "rpc_grpc_status_code": "OK"}
    assert grown(after, "rpc_server_duration_seconds_count", **call) == 1
    assert grown(after, "engineshed_eventstore_events_total") >= 1
    assert grown(after, "engineshed_eventstore_appends_total", outcome="committed") >= 1
    assert grown(after, "engineshed_bus_bucket_writes_total") >= 1
    assert sample(after, "engineshed_bus_connected") == 1
    assert sample(after, "engineshed_build_info", service="catalog") == 1


async def test_only_holders_of_the_token_see_it(catalog: Catalog) -> None:
    assert await is_refused(catalog.settings["ENGINESHED_METRICS_LISTEN"])
