"""Reading the inputs of a request."""

from typing import Any

import triton_python_backend_utils as triton  # only there in Triton's stub

_SAMPLING = (
    *("best_of", "temperature", "top_k", "top_p", "frequency_penalty", "presence_penalty"),
    *("max_tokens", "seed", "exclude_input_from_output", "return_perf_metrics"),
)


def one(request: Any, name: str) -> Any:
    """Return the one value of an input; None: it is not given."""
    tensor = triton.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy()
    if values.size != 1:
        raise triton.TritonModelException(f"Expected a scalar tensor for tensor {name}")
    value = values.item(0)
    return value.decode() if isinstance(value, bytes) else value


def texts(request: Any, name: str) -> list[str]:
    """Return the texts of an input."""
    tensor = triton.get_input_tensor_by_name(request, name)
    return [] if tensor is None else [text.decode() for text in tensor.as_numpy().ravel()]


def sampling(request: Any) -> dict[str, Any]:
    """Return what is said of how to sample."""
    said = {name: one(request, f"sampling_param_{name}") for name in _SAMPLING}
    return {name: value for name, value in said.items() if value is not None}
