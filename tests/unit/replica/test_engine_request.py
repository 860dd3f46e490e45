import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from engineshed.replica.engine import Generation, build_request, output_ids

TYPES = {"INT32": "<i4", "FP32": "<f4", "UINT64": "<u8", "BOOL": "?"}


def tensors(request: service_pb2.ModelInferRequest) -> dict[str, list[object]]:
    """The tensors of a request, each with the leading dimension of its batch."""
    seen = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        assert tensor.shape[0] == 1
        assert len(tensor.shape) == 2
        seen[tensor.name] = np.frombuffer(raw, TYPES[tensor.datatype]).tolist()
        assert len(seen[tensor.name]) == tensor.shape[1]
    return seen


def test_a_greedy_request_names_nothing_that_is_drawn() -> None:
    request = build_request(Generation([5, 6, 7], max_tokens=9), "r-0", end_id=2)

    assert tensors(request) == {
        "input_ids": [5, 6, 7],
        "input_lengths": [3],
        "request_output_len": [9],
        "streaming": [True],
        "end_id": [2],
        "runtime_top_k": [1],
    }
    assert request.model_name == "tensorrt_llm"
    assert request.id == "r-0"
    # NVIDIA's back end fails a request that does not ask for both.
    assert [output.name for output in request.outputs] == ["output_ids", "sequence_length"]


def test_a_drawn_answer_has_temperature_mass_and_seed() -> None:
    generation = Generation(
        [5], 1, temperature=0.5, top_p=0.25, seed=-1, presence_penalty=1.5, frequency_penalty=-2
    )
    request = tensors(build_request(generation, "r-0", end_id=None))

    assert request["temperature"] == [0.5]
    assert request["runtime_top_p"] == [0.25]
    assert request["seed"] == [2**64 - 1]
    assert request["presence_penalty"] == [1.5]
    assert request["frequency_penalty"] == [-2]
    assert "end_id" not in request
    assert "runtime_top_k" not in request


def test_a_mass_of_nothing_is_not_taken_for_no_limit() -> None:
    request = tensors(build_request(Generation([5], 1, temperature=1, top_p=0), "r-0", end_id=None))

    assert request["runtime_top_p"] == pytest.approx([1e-6])


def test_new_ids_are_read_whatever_stands_beside_them() -> None:
    response = service_pb2.ModelInferResponse()
    for name, values in (("sequence_length", [2]), ("output_ids", [7, 8])):
        response.outputs.add(name=name, datatype="INT32")
        response.raw_output_contents.append(np.array(values, "<i4").tobytes())

    assert output_ids(response) == [7, 8]
    assert output_ids(service_pb2.ModelInferResponse()) == []
