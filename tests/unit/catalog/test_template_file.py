"""The templates that operators define."""

import re
from pathlib import Path

import pytest

from engineshed.api.catalog.v1.template_service_pb2 import Flavor, Template
from engineshed.catalog.template_file import TemplateFileError, check, read_templates

DOCUMENT = Path(__file__).parents[3] / "docs" / "operations.md"

ONE = """\
templates:
  - model_name: acme/bot
    flavors:
      - flavor_name: base
"""


def written(folder: Path, text: str, name: str = "templates.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(TemplateFileError) as caught:
        read_templates(path)
    return str(caught.value)


def test_the_example_of_the_documentation_is_a_file_of_templates(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(templates:\n.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    bot, large = read_templates(written(tmp_path, example))
    assert bot == Template(
        model_name="acme/support-bot",
        description="Answers customers.",
        checkpoint_id="ckpt_01J00000000000000000000000",
        flavors=[
            Flavor(
                flavor_name="base",
                gpu_types=["h100-sxm", "h200-sxm"],
                gpu_counts=[1],
                regions=["eu", "us"],
            ),
            Flavor(
                flavor_name="fast",
                description="Two GPUs and small weights.",
                max_context=8192,
                max_batch_size=64,
                max_batch_tokens=16384,
                kv_cache_fraction=0.8,
                quantization="fp8",
                gpu_types=["h200-sxm"],
                gpu_counts=[2, 4],
            ),
        ],
    )
    assert (large.model_name, large.checkpoint_id) == ("acme/anything-large", "")
    assert list(large.flavors[0].gpu_counts) == [8]


def test_json_is_read_too(tmp_path: Path) -> None:
    text = '{"templates": [{"model_name": "acme/bot", "flavors": [{"flavor_name": "base"}]}]}'
    (template,) = read_templates(written(tmp_path, text, "templates.json"))
    assert template == read_templates(written(tmp_path, ONE))[0]


@pytest.mark.parametrize(
    ("old", "new", "place", "value"),
    [
        ("acme/bot", "' '", "templates[0].model_name", "' '"),
        ("flavor_name: base", "flavor_name: 7", "templates[0].flavors[0].flavor_name", "7"),
        ("base", "base\n        gpu_counts: [1, 0]", "flavors[0].gpu_counts[1]", "0"),
        ("base", "base\n        gpu_types: [H100]", "flavors[0].gpu_types[0]", "'H100'"),
        ("base", "base\n        regions: [eu_1]", "flavors[0].regions[0]", "'eu_1'"),
        ("base", "base\n        gpus: [x]", "flavors[0].gpus", "['x']"),
        (
            "base",
            "base\n        serving: {precision: int3}",
            "templates[0].flavors[0].serving.precision",
            "'int3'",
        ),
        ("acme/bot", "acme/bot\n    checkpoint_id: mine", "templates[0].checkpoint_id", "'mine'"),
        ("    flavors:\n      - flavor_name: base\n", "    flavors: []\n", "[0].flavors", "[]"),
    ],
)
def test_a_mistake_is_named_by_file_field_and_value(
    tmp_path: Path, old: str, new: str, place: str, value: str
) -> None:
    assert old in ONE
    path = written(tmp_path, ONE.replace(old, new))
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert f"{place}: " in message
    assert message.endswith(f"it is {value}")


def test_every_mistake_is_named(tmp_path: Path) -> None:
    text = ONE.replace("base", "base\n        gpu_counts: [0]\n        regions: [EU]")
    assert len(refusal(written(tmp_path, text)).splitlines()) == 2


@pytest.mark.parametrize("text", ["", "templates", "- a", "templates: {}", "a: ["])
def test_what_is_no_file_of_templates_is_refused_by_the_files_name(
    tmp_path: Path, text: str
) -> None:
    path = written(tmp_path, text)
    assert refusal(path).startswith(f"{path}: ")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "none.yaml: cannot be read" in refusal(tmp_path / "none.yaml")


def test_names_are_there_once_and_are_not_the_platforms(tmp_path: Path) -> None:
    twice = ONE + ONE.removeprefix("templates:\n")
    assert "'acme/bot' is there 2 times" in refusal(written(tmp_path, twice))
    flavors = ONE + "      - flavor_name: base\n"
    assert "templates[0].flavors: flavor_name 'base'" in refusal(written(tmp_path, flavors))
    for name in ("custom", "engineshed/sample"):
        assert "comes with the platform" in refusal(
            written(tmp_path, ONE.replace("acme/bot", name))
        )


def test_a_file_can_be_checked_beforehand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(written(tmp_path, ONE)) == 0
    assert capsys.readouterr().err == ""
    assert check(written(tmp_path, "templates: 1")) == 1
    assert "templates: Input should be a valid list; it is 1" in capsys.readouterr().err
