"""Templates of an operator, in a real catalog."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engineshed import ids
from engineshed.api.catalog.v1.hold_service_pb2 import CreateHoldRequest
from engineshed.api.catalog.v1.organization_service_pb2 import CreateOrganizationRequest
from engineshed.api.catalog.v1.template_service_pb2 import ListTemplatesRequest

from .conftest import Caller, Catalog, eventually, refused, service_token
from .models import write_model

CallAs = Callable[[Catalog, str], Caller]


def _write(path: Path, **fields: object) -> None:
    lines = [f"    {name}: {value}\n" for name, value in fields.items()]
    flavors = "    flavors: [{flavor_name: base, gpu_types: [h100-sxm], gpu_counts: [2]}]\n"
    path.write_text("templates:\n  - model_name: acme/bot\n" + "".join(lines) + flavors)


async def test_they_are_listed_and_every_organization_may_serve_what_is_behind_them(
    own_catalog: Callable[..., Catalog], call: CallAs, tmp_path: Path
) -> None:
    catalog = own_catalog()
    catalog.start_broker()
    catalog.start()
    operator = call(catalog, catalog.admin)
    mine = await operator.register(write_model(catalog.imports / "bot"))
    await operator.settled(mine.checkpoint_id)
    request = CreateOrganizationRequest(slug="acme")
    other = (await operator.organizations.CreateOrganization(request)).organization
    hold: Any = CreateHoldRequest(
        checkpoint_id=mine.checkpoint_id, holder_id=ids.new(ids.ENDPOINT), org_id=other.org_id
    )
    scheduler = call(catalog, service_token("scheduler"))
    with refused("CHECKPOINT_NOT_FOUND"):
        await scheduler.holds.CreateHold(hold)

    _write(tmp_path / "templates.yaml", checkpoint_id=mine.checkpoint_id)
    catalog.kill()
    catalog.settings["ENGINESHED_TEMPLATES"] = str(tmp_path / "templates.yaml")
    catalog.start()

    operator, scheduler = (
        call(catalog, secret) for secret in (catalog.admin, service_token("scheduler"))
    )
    listed = (await operator.templates.ListTemplates(ListTemplatesRequest())).templates
    assert [one.model_name for one in listed] == ["acme/bot", "custom", "engineshed/sample"]
    assert (listed[0].checkpoint_id, list(listed[0].flavors[0].gpu_counts)) == (
        mine.checkpoint_id,
        [2],
    )
    held = await scheduler.holds.CreateHold(hold)
    assert held.checkpoint.checkpoint_id == mine.checkpoint_id


@pytest.mark.parametrize("name", ["templates.yaml", "missing.yaml"])
async def test_a_catalog_does_not_start_with_a_file_that_makes_no_sense(
    own_catalog: Callable[..., Catalog], tmp_path: Path, name: str
) -> None:
    _write(tmp_path / "templates.yaml", colour="red")
    catalog = own_catalog(ENGINESHED_TEMPLATES=str(tmp_path / name))
    catalog.start_broker()
    catalog.launch()
    await eventually(lambda: str(tmp_path / name) in catalog.log)
    assert catalog.kill() != 0
