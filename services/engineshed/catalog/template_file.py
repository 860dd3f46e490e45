"""The templates that an operator defines in a file, YAML or JSON, in the shape that REST shows.

`python -m engineshed.catalog.template_file FILE` checks a file and says what is wrong with it.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from engineshed.api.catalog.v1 import template_service_pb2 as pb
from engineshed.catalog.templates import BUILT_IN

# As the scheduler and the agents have them.
_MOST_GPUS: Final = 64
_LONGEST: Final = 10_000_000

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
FlavorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
CheckpointId = Annotated[str, StringConstraints(pattern=r"^ckpt_[0-9A-HJKMNP-TV-Z]{26}$")]
GpuType = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
GpuCount = Annotated[int, Field(ge=1, le=_MOST_GPUS)]


class TemplateFileError(ValueError):
    """The file is none of templates; the message names each field and what is wrong with it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Serving(_Part):
    max_context: Annotated[int, Field(ge=1, le=_LONGEST)] | None = None
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    quantization: Literal["fp8", "int8_sq", "int8_wo", "int4_awq", "w4a8_awq", "nvfp4"] | None = (
        None
    )
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    max_batch_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    kv_cache_fraction: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None


class _Flavor(_Part):
    flavor_name: FlavorName
    description: str = ""
    serving: _Serving = _Serving()
    gpu_types: list[GpuType] = []
    gpu_counts: list[GpuCount] = []
    regions: list[Region] = []


class _Template(_Part):
    model_name: ModelName
    description: str = ""
    checkpoint_id: CheckpointId | None = None
    flavors: list[_Flavor] = Field(min_length=1)


class _File(_Part):
    templates: list[_Template]


def read_templates(path: Path) -> list[pb.Template]:
    """Return the templates of a file.

    Raises:
        TemplateFileError: it cannot be read, or says what makes no sense.

    """
    try:
        content = yaml.safe_load(path.read_text())  # JSON is YAML too
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TemplateFileError(f"{path}: cannot be read: {error}") from error
    try:
        templates = _File.model_validate(content).templates
    except ValidationError as error:
        lines = [
            f"{path}: {_place(item['loc'])}: {item['msg']}; it is {item['input']!r}"
            for item in error.errors()
        ]
        raise TemplateFileError("\n".join(lines)) from error
    _require_different(path, "templates", "model_name", [one.model_name for one in templates])
    for number, template in enumerate(templates):
        place = f"templates[{number}]"
        if template.model_name in BUILT_IN:
            raise TemplateFileError(
                f"{path}: {place}.model_name: {template.model_name!r} comes with the platform; "
                "choose another name"
            )
        names = [flavor.flavor_name for flavor in template.flavors]
        _require_different(path, f"{place}.flavors", "flavor_name", names)
    return [_message(template) for template in templates]


def _require_different(path: Path, place: str, field: str, names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise TemplateFileError(f"{path}: {place}: {field} {name!r} is there {count} times")


def _place(location: Sequence[int | str]) -> str:
    """Return where something is, e.g. "templates[0].flavors[1].gpu_types[0]"."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".") or "the file"


def _message(template: _Template) -> pb.Template:
    return pb.Template(
        model_name=template.model_name,
        description=template.description,
        checkpoint_id=template.checkpoint_id or "",
        flavors=[
            pb.Flavor(
                flavor_name=flavor.flavor_name,
                description=flavor.description,
                max_context=flavor.serving.max_context or 0,
                precision=flavor.serving.precision or "",
                quantization=flavor.serving.quantization or "",
                max_batch_size=flavor.serving.max_batch_size or 0,
                max_batch_tokens=flavor.serving.max_batch_tokens or 0,
                kv_cache_fraction=flavor.serving.kv_cache_fraction or 0.0,
                gpu_types=flavor.gpu_types,
                gpu_counts=flavor.gpu_counts,
                regions=flavor.regions,
            )
            for flavor in template.flavors
        ],
    )


def check(path: Path) -> int:
    """Say on standard error what is wrong with a file; return the exit status."""
    try:
        read_templates(path)
    except TemplateFileError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(check(Path(sys.argv[1])))
