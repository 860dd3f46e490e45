"""What an estimate has to know of a model, from its config.json and the headers of its weights."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

# Quantization narrows the linear layers; embeddings, the head, norms, biases and the routers of
# mixtures of experts keep their type.
_KEPT: Final = re.compile(
    r"(^|[._])(embed\w*|wte|wpe|lm_head|output_layer|head|\w*norm\w*|ln_\w+|router|gate)\."
)

_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of the weights, as its header tells."""

    name: str
    elements: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers that memory follows from; 0 where config.json does not say."""

    parameters: int
    quantizable: int  # of them in linear layers
    weight_bytes: int  # as they are stored
    layers: int  # that attend, so that they keep keys and values
    kv_heads: int
    head_dim: int
    latent: int  # values that a layer keeps of a token instead of keys and values; 0: it does not
    hidden: int
    experts: int  # 0: no mixture
    max_context: int

    @property
    def known(self) -> bool:
        """Whether there is enough to tell the memory that a token takes."""
        cached = self.latent or (self.kv_heads and self.head_dim)
        return bool(self.parameters and self.layers and cached)


def shape_of(
    config: Mapping[str, Any], tensors: Iterable[StoredTensor], max_context: int
) -> ModelShape:
    """Return the shape of a model.

    Args:
        config: config.json; of models of several kinds of input, the part for text counts.
        tensors: of all files of weights.
        max_context: what the model states; 0: nothing.

    """
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {**config, **text}
    parameters = quantizable = weight_bytes = 0
    for tensor in tensors:
        parameters += tensor.elements
        weight_bytes += tensor.bytes
        if tensor.name.endswith("weight") and not _KEPT.search(tensor.name):
            quantizable += tensor.elements
    heads = _number(config, "num_attention_heads", "n_head", "num_heads")
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    head_dim = _number(config, "head_dim", "kv_channels") or (hidden // heads if heads else 0)
    kv_heads = _number(config, "num_key_value_heads", "num_kv_heads", "multi_query_group_num")
    if not kv_heads:
        kv_heads = 1 if config.get("multi_query") is True else heads
    return ModelShape(
        parameters=parameters,
        quantizable=quantizable,
        weight_bytes=weight_bytes,
        layers=_attending_layers(config),
        kv_heads=kv_heads,
        head_dim=head_dim,
        latent=_latent(config),
        hidden=hidden,
        experts=_number(config, *_EXPERTS),
        max_context=max_context,
    )


def _attending_layers(config: Mapping[str, Any]) -> int:
    layers = _number(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    kinds = config.get("layer_types") or config.get("layers_block_type")
    if isinstance(kinds, list) and len(kinds) == layers:
        # What attends to a window only is counted in full: an estimate must not be too low.
        return sum("attention" in str(kind) and "linear" not in str(kind) for kind in kinds)
    return layers


def _latent(config: Mapping[str, Any]) -> int:
    """Return what multi-head latent attention keeps (arXiv:2405.04434, section 2.1)."""
    rank = _number(config, "kv_lora_rank")
    return rank + _number(config, "qk_rope_head_dim") if rank else 0


def _number(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if math.isfinite(value) and 0 < value < 2**31:
            return int(value)
    return 0
