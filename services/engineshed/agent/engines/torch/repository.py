"""The Triton model repository of a torch engine.

The model has the name and the tensors of NVIDIA's tensorrtllm back end, as far as it honours them:
Triton itself turns away a request with an input that is not declared here.
"""

import json
from pathlib import Path
from typing import Final

from engineshed.triton.engine import MODEL_NAME

_MODEL: Final = '''\
"""Serves an engine of the torch back end."""

from engineshed.agent.engines.torch.runtime import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

# One value per request each; the reshape gives them NVIDIA's shape on the wire, [1, 1].
_SCALARS: Final = {
    "input_lengths": "TYPE_INT32",
    "request_output_len": "TYPE_INT32",
    "end_id": "TYPE_INT32",
    "pad_id": "TYPE_INT32",
    "beam_width": "TYPE_INT32",
    "runtime_top_k": "TYPE_INT32",
    "runtime_top_p": "TYPE_FP32",
    "temperature": "TYPE_FP32",
    "repetition_penalty": "TYPE_FP32",
    "presence_penalty": "TYPE_FP32",
    "frequency_penalty": "TYPE_FP32",
    "seed": "TYPE_UINT64",
    "min_tokens": "TYPE_INT32",
    "return_log_probs": "TYPE_BOOL",
    "guided_decoding_guide_type": "TYPE_STRING",
    "guided_decoding_guide": "TYPE_STRING",
    "streaming": "TYPE_BOOL",
    "exclude_input_in_output": "TYPE_BOOL",
}
_REQUIRED: Final = ("input_lengths", "request_output_len")


def write_repository(
    engine: Path, repository: Path, kv_cache_fraction: float | None = None
) -> None:
    """Write the model repository that serves `engine` into the folder `repository`.

    `kv_cache_fraction` is the share that keys and values take of what is free of a GPU's memory
    once the model is loaded; None: the usual one.
    """
    model = repository / MODEL_NAME
    (model / "1").mkdir(parents=True, exist_ok=True)
    (model / "1" / "model.py").write_text(_MODEL, encoding="utf-8")
    (model / "config.pbtxt").write_text(_configuration(engine, kv_cache_fraction), encoding="utf-8")


def _configuration(engine: Path, kv_cache_fraction: float | None) -> str:
    parameters = {"engine_directory": str(engine)}
    if kv_cache_fraction is not None:
        parameters["kv_cache_fraction"] = str(kv_cache_fraction)
    inputs = [
        '{ name: "input_ids" data_type: TYPE_INT32 dims: [ -1 ] }',
        *(_scalar(name, data_type) for name, data_type in _SCALARS.items()),
        *(
            f'{{ name: "{name}" data_type: TYPE_INT32 dims: [ 2, -1 ] optional: true }}'
            for name in ("stop_words_list", "bad_words_list")
        ),
        '{ name: "embedding_bias" data_type: TYPE_FP32 dims: [ -1 ] optional: true }',
    ]
    listed = ",\n  ".join(inputs)
    return f"""\
name: "{MODEL_NAME}"
backend: "python"
max_batch_size: 1
model_transaction_policy {{ decoupled: true }}
input [
  {listed}
]
output [
  {{ name: "output_ids" data_type: TYPE_INT32 dims: [ -1, -1 ] }},
  {{ name: "sequence_length" data_type: TYPE_INT32 dims: [ -1 ] }},
  {{ name: "output_log_probs" data_type: TYPE_FP32 dims: [ -1, -1 ] }},
  {{ name: "cum_log_probs" data_type: TYPE_FP32 dims: [ -1 ] }}
]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{"".join(_parameter(*each) for each in parameters.items())}"""


def _scalar(name: str, data_type: str) -> str:
    shape = "dims: [ 1 ] reshape: { shape: [ ] }"
    optional = "" if name in _REQUIRED else " optional: true"
    return f'{{ name: "{name}" data_type: {data_type} {shape}{optional} }}'


def _parameter(key: str, value: str) -> str:
    quoted = json.dumps(value, ensure_ascii=False)
    return f'parameters {{ key: "{key}" value {{ string_value: {quoted} }} }}\n'
