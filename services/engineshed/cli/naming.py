"""What a person calls an object: its id, or its name if only one has it."""

from collections.abc import Sequence

from engineshed.cli.client import ApiError, Client, Json


def find_named(
    items: Sequence[Json], reference: str, kind: str, *fields: str, listed_by: str = ""
) -> Json:
    """Return the one of `items` that has `reference` in one of its `fields`.

    Args:
        items: what there is.
        reference: what somebody calls it.
        kind: what such an object is called.
        fields: those that it may be called by.
        listed_by: the command that shows all of them; default: `shed <kind>s list`.

    Raises:
        ApiError: none has, or several.
    """
    found = [item for item in items if reference in [item[field] for field in fields]]
    if not found:
        raise ApiError(
            f"no {kind} is called {reference!r}; see: {listed_by or f'shed {kind}s list'}"
        )
    if len(found) > 1:
        choices = ", ".join(item["id"] for item in found)
        raise ApiError(f"{len(found)} {kind}s are called {reference!r}; name one by id: {choices}")
    return found[0]


def checkpoint_id(client: Client, reference: str) -> str:
    """Return the id of the checkpoint that `reference` names."""
    if reference.startswith("ckpt_"):
        return reference
    return str(find_named(client.list("/v0/checkpoints"), reference, "checkpoint", "name")["id"])


def organization_id(client: Client, reference: str) -> str:
    """Return the id of the organization that `reference` names."""
    if reference.startswith("org_"):
        return reference
    return str(find_named(client.list("/v0/organizations"), reference, "org", "slug")["id"])


def token_id(client: Client, reference: str) -> str:
    """Return the id of the token that `reference` names; of those revoked only an id names one."""
    if reference.startswith("tok_"):
        return reference
    live = [item for item in client.list("/v0/tokens") if not item["revoked_at"]]
    return str(find_named(live, reference, "token", "name")["id"])


def node_id(client: Client, reference: str) -> str:
    """Return the id of the node that `reference` names."""
    if reference.startswith("node_"):
        return reference
    nodes = client.list("/v0/nodes")
    found = find_named(nodes, reference, "node", "hostname", listed_by="shed nodes")
    return str(found["id"])
