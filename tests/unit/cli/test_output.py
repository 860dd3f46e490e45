"""What comes from the platform is printed as it is."""

import json

import pytest
from rich.console import Console

from engineshed.cli import output
from engineshed.cli.catalog import name_of
from engineshed.cli.client import ApiError
from engineshed.cli.naming import find_named
from engineshed.cli.output import Format, colored, print_error, print_object, print_rows

ID = "ep_01HZZZZZZZZZZZZZZZZZZZZZZZ"
COLUMNS = [
    ("ENDPOINT", lambda item: item["id"]),
    ("NAME", lambda item: item["name"]),
    ("STATUS", lambda item: colored(item["status"])),
]
ROW = {"id": ID, "endpoint_id": ID, "name": "a[/b] :fire: [red]", "status": "running"}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "out", Console(width=20, emoji=False))
    monkeypatch.setattr(output, "err", Console(width=20, emoji=False, stderr=True))


def test_a_row_is_one_line_whatever_the_terminals_width(capsys) -> None:
    print_rows([ROW, {**ROW, "name": "x"}], COLUMNS, Format.TEXT)

    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["ENDPOINT", "NAME", "STATUS"]
    assert first == f"{ID}  a[/b] :fire: [red]  running"
    assert second == f"{ID}  x                   running"


def test_an_empty_list_still_shows_its_columns(capsys) -> None:
    print_rows([], COLUMNS, Format.TEXT)
    assert capsys.readouterr().out.split() == ["ENDPOINT", "NAME", "STATUS"]


def test_an_object_is_shown_field_by_field_without_the_empty_ones(capsys) -> None:
    print_object({**ROW, "gpus": [0, 1], "driver": None, "degraded": False}, Format.TEXT)
    assert capsys.readouterr().out.splitlines() == [
        f"endpoint_id  {ID}",
        "name         a[/b] :fire: [red]",
        "status       running",
        "gpus         [0, 1]",
        "degraded     False",
    ]


def test_json_is_json_and_nothing_else(capsys) -> None:
    print_object(ROW, Format.JSON)
    assert json.loads(capsys.readouterr().out) == ROW


def test_an_error_is_one_line_on_standard_error(capsys) -> None:
    print_error("[/x] is no such thing; " + "see the list " * 9)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: [/x] is no such thing")
    assert captured.err.count("\n") == 1


def test_a_name_names_what_alone_has_it() -> None:
    items = [{"id": "1", "name": "a"}, {"id": "2", "name": "b"}, {"id": "3", "name": "b"}]
    assert find_named(items, "a", "thing", "name")["id"] == "1"
    with pytest.raises(ApiError, match="shed things list"):
        find_named(items, "c", "thing", "name")
    with pytest.raises(ApiError, match="by id: 2, 3"):
        find_named(items, "b", "thing", "name")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("./my-bot/", "my-bot"),
        ("/models/my bot", "my bot"),
        ("file:///models/my%20bot/", "my bot"),
        ("s3://bucket/bot", "bot"),
    ],
)
def test_a_checkpoint_is_called_as_its_directory_is(source, name) -> None:
    assert name_of(source) == name
