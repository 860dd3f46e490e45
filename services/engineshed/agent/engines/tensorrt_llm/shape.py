"""What a plan has to know of a model, from its config.json and the headers of its weights."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from engineshed.agent.engines.checkpoint import Layout
from engineshed.fit import ModelShape, StoredTensor, shape_of

_BITS: Final[Mapping[str, int]] = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "BF16": 16,
    "F16": 16,
    "I16": 16,
    "U16": 16,
}
_PRECISIONS: Final[Mapping[str, str]] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class Model:
    """A model, as its checkpoint describes it."""

    architecture: str
    shape: ModelShape
    dtype: str
    """`float32`, `bfloat16` or `float16`: of most of its weights, or what they were made from."""
    heads: int
    """That attend; 0: config.json does not say."""
    stated_context: int
    """The most tokens that it was made for; 0: config.json does not say."""
    vocab_size: int
    quantized_by: str | None
    """The method by which its weights are quantized already; None: they are not."""
    reordered: bool
    """Whether GPTQ has ordered the columns by activation (desc_act)."""


def model_of(layout: Layout) -> Model:
    """Return what the checkpoint says of its model."""
    config = _text_config(layout.config)
    quantized = layout.config.get("quantization_config")
    quantized = quantized if isinstance(quantized, dict) else {}
    method = quantized.get("quant_method")
    return Model(
        architecture=layout.architecture,
        shape=shape_of(layout.config, _tensors(layout), layout.stated_context),
        dtype=_dtype(config, layout),
        heads=_number(config, "num_attention_heads", "n_head", "num_heads", "n_heads"),
        stated_context=layout.stated_context,
        vocab_size=_number(config, "vocab_size"),
        quantized_by=str(method or "an unnamed method") if quantized else None,
        reordered=quantized.get("desc_act") is True,
    )


def end_ids(config: Mapping[str, Any], generation: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the tokens that end an answer, by generation_config.json or else by config.json."""
    for source in (generation, _text_config(config), config):
        named = source.get("eos_token_id")
        ids = named if isinstance(named, list) else [named]
        if found := tuple(sorted({each for each in ids if isinstance(each, int)})):
            return found
    return ()


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part that is about text, of models of several kinds of input."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _tensors(layout: Layout) -> Iterator[StoredTensor]:
    for name, (kind, shape) in layout.tensors.items():
        elements = math.prod(shape)
        yield StoredTensor(name, elements, math.ceil(elements * _BITS.get(kind, 8) / 8))


def _dtype(config: Mapping[str, Any], layout: Layout) -> str:
    stated = config.get("torch_dtype") or config.get("dtype")
    if stated in _PRECISIONS.values():
        return str(stated)
    elements: Counter[str] = Counter()
    for kind, shape in layout.tensors.values():
        elements[kind] += math.prod(shape)
    kinds = (kind for kind, _ in elements.most_common() if kind in _PRECISIONS)
    return _PRECISIONS[next(kinds, "BF16")]


def _number(config: Mapping[str, Any], *names: str) -> int:
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)
