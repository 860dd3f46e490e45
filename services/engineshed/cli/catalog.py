"""`shed checkpoints …`, `shed templates`, `shed token …` and `shed orgs …`."""

from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer

from engineshed.cli.client import Client, find_connection
from engineshed.cli.naming import checkpoint_id, organization_id, token_id
from engineshed.cli.output import (
    Column,
    Format,
    Output,
    age,
    colored,
    err,
    print_object,
    print_rows,
    size,
)
from engineshed.cli.progress import wait_for_checkpoint

checkpoints = typer.Typer(no_args_is_help=True, help="Register and inspect checkpoints.")
tokens = typer.Typer(no_args_is_help=True, help="Create, list and revoke API tokens.")
organizations = typer.Typer(no_args_is_help=True, help="Create and list organizations (operators).")

_CHECKPOINTS: list[Column] = [
    ("CHECKPOINT", lambda item: item["checkpoint_id"]),
    ("NAME", lambda item: item["name"]),
    ("STATUS", lambda item: colored(item["status"])),
    ("ARCHITECTURE", lambda item: item["architecture"]),
    ("PARAMETERS", lambda item: f"{item['parameter_count']:,}"),
    ("SIZE", lambda item: size(item["size_bytes"])),
    ("DIGEST", lambda item: item["digest"][:19]),
    ("AGE", lambda item: age(item["created_at"])),
]
_TEMPLATES: list[Column] = [
    ("MODEL", lambda item: item["model_name"]),
    ("FLAVORS", lambda item: ", ".join(flavor["flavor_name"] for flavor in item["flavors"])),
    ("DESCRIPTION", lambda item: item["description"]),
]
_TOKENS: list[Column] = [
    ("TOKEN", lambda item: item["token_id"]),
    ("NAME", lambda item: item["name"]),
    ("SCOPES", lambda item: ", ".join(item["scopes"])),
    ("EXPIRES", lambda item: item["expires_at"] or "never"),
    ("REVOKED", lambda item: item["revoked_at"]),
]
_ORGANIZATIONS: list[Column] = [
    ("ORGANIZATION", lambda item: item["org_id"]),
    ("SLUG", lambda item: item["slug"]),
    ("AGE", lambda item: age(item["created_at"])),
]

CheckpointRef = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="Its id, or name if that is unique.")
]


def source_uri(source: str) -> str:
    """Return `source` as a URI; a path of this machine becomes `file://`."""
    return source if "://" in source else Path(source).expanduser().absolute().as_uri()


def name_of(source: str) -> str:
    """Return what to call a checkpoint that comes from `source`: its directory's name."""
    path = Path(unquote(urlsplit(source).path) if "://" in source else source).expanduser()
    return (path.resolve() if path.name in ("", "..") else path).name


@checkpoints.command("register")
def register(
    source: Annotated[str, typer.Argument(help="A directory in Hugging Face layout, or its URI.")],
    name: Annotated[str, typer.Option(help="What to call it; default: the directory's name.")] = "",
    digest: Annotated[str, typer.Option(help="Refuse it unless it has this digest.")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is done.")] = True,
    output: Output = Format.TEXT,
) -> None:
    """Copy a checkpoint into the platform and hash it."""
    client = Client(find_connection())
    body: dict[str, object] = {
        "name": name or name_of(source),
        "uri": source_uri(source),
    }
    checkpoint = client.post("/v0/checkpoints", body | ({"digest": digest} if digest else {}))
    if wait:
        checkpoint = wait_for_checkpoint(client, checkpoint["checkpoint_id"], err)
    print_object(checkpoint, output)


@checkpoints.command("list")
def list_checkpoints(
    output: Output = Format.TEXT,
    deleted: Annotated[bool, typer.Option(help="Show deleted ones too.")] = False,
) -> None:
    """Show all checkpoints of the organization."""
    rows = Client(find_connection()).list("/v0/checkpoints", show_deleted=str(deleted).lower())
    print_rows(rows, _CHECKPOINTS, output)


@checkpoints.command("get")
def get_checkpoint(checkpoint: CheckpointRef, output: Output = Format.TEXT) -> None:
    """Show one checkpoint with its files."""
    client = Client(find_connection())
    path = f"/v0/checkpoints/{checkpoint_id(client, checkpoint)}"
    print_object(client.get(path, show_deleted="true"), output)


@checkpoints.command("delete")
def delete_checkpoint(checkpoint: CheckpointRef, output: Output = Format.TEXT) -> None:
    """Hide a checkpoint. Its bytes go once no endpoint serves it; the source is never touched."""
    client = Client(find_connection())
    path = f"/v0/checkpoints/{checkpoint_id(client, checkpoint)}"
    print_object(client.delete(path), output)


def templates(output: Output = Format.TEXT) -> None:
    """Show the models that can be deployed by name."""
    rows = Client(find_connection()).list("/v0/dedicated_endpoints/templates")
    print_rows(rows, _TEMPLATES, output)


@tokens.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="May be repeated; default: inference."),
    ] = None,
    org: Annotated[
        str, typer.Option(help="For operators: the organization, by id or short name.")
    ] = "",
    output: Output = Format.TEXT,
) -> None:
    """Make a token. Its secret is shown this once."""
    client = Client(find_connection())
    body: dict[str, object] = {"name": name, "scopes": scope or ["inference"]}
    if org:
        body["org_id"] = organization_id(client, org)
    print_object(client.post("/v0/tokens", body), output)


@tokens.command("list")
def list_tokens(output: Output = Format.TEXT) -> None:
    """Show the organization's tokens, without their secrets."""
    print_rows(Client(find_connection()).list("/v0/tokens"), _TOKENS, output)


@tokens.command("revoke")
def revoke_token(
    token: Annotated[
        str, typer.Argument(metavar="TOKEN", help="Its id, or name if that is unique.")
    ],
    output: Output = Format.TEXT,
) -> None:
    """End a token at once."""
    client = Client(find_connection())
    print_object(client.delete(f"/v0/tokens/{token_id(client, token)}"), output)


@organizations.command("create")
def create_organization(
    slug: Annotated[str, typer.Argument(help="Its short name.")], output: Output = Format.TEXT
) -> None:
    """Add an organization."""
    print_object(Client(find_connection()).post("/v0/organizations", {"slug": slug}), output)


@organizations.command("list")
def list_organizations(output: Output = Format.TEXT) -> None:
    """Show all organizations."""
    print_rows(Client(find_connection()).list("/v0/organizations"), _ORGANIZATIONS, output)
