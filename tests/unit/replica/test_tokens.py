from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from engineshed.replica.engine import EngineError, Generation, Guide
from engineshed.replica.tensors import UnfitModelError
from engineshed.replica.tokens import Layout, read_ids, read_scored
from engineshed.triton.control import ModelTensors, Tensor

TYPES = {"INT32": "<i4", "FP32": "<f4", "UINT64": "<u8", "BOOL": "?"}
NEEDED = {
    "input_ids": "INT32",
    "input_lengths": "INT32",
    "request_output_len": "INT32",
    "streaming": "BOOL",
}
SAMPLING = {
    "end_id": "INT32",
    "runtime_top_k": "INT32",
    "runtime_top_p": "FP32",
    "temperature": "FP32",
    "presence_penalty": "FP32",
    "frequency_penalty": "FP32",
}
NEW = {"seed": "UINT64", "min_tokens": "INT32", "exclude_input_in_output": "BOOL"}
NEW |= {"return_log_probs": "BOOL", "prompt_ignore_length": "INT32"}
NEW |= {"guided_decoding_guide_type": "BYTES", "guided_decoding_guide": "BYTES"}
OLD = {"random_seed": "UINT64", "min_length": "INT32"}


def model(inputs: dict[str, str], *outputs: str) -> ModelTensors:
    return ModelTensors(
        tuple(Tensor(name, datatype, (-1, 1)) for name, datatype in inputs.items()),
        tuple(
            Tensor(name, "INT32", (-1, -1)) for name in ("output_ids", "sequence_length", *outputs)
        ),
    )


NEWEST = model(
    NEEDED | SAMPLING | NEW | {"stop_words_list": "INT32"}, "output_log_probs", "context_logits"
)


def layout(tensors: ModelTensors = NEWEST, *end_ids: int, knows_its_ends: bool = False) -> Layout:
    return Layout(tensors, end_ids, knows_its_ends=knows_its_ends)


def tensors(request: service_pb2.ModelInferRequest) -> dict[str, Any]:
    """The tensors of a request, each with the leading dimension of its batch."""
    seen: dict[str, Any] = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        assert tensor.shape[0] == 1
        if tensor.datatype == "BYTES":
            assert list(tensor.shape) == [1, 1]
            assert int.from_bytes(raw[:4], "little") == len(raw) - 4
            seen[tensor.name] = raw[4:].decode()
        else:
            values = np.frombuffer(raw, TYPES[tensor.datatype])
            seen[tensor.name] = values.reshape(tuple(tensor.shape))[0].tolist()
    return seen


def outputs(request: service_pb2.ModelInferRequest) -> list[str]:
    return [output.name for output in request.outputs]


def response(**values: Any) -> service_pb2.ModelInferResponse:
    it = service_pb2.ModelInferResponse()
    for name, value in values.items():
        datatype = "FP32" if "log_probs" in name else "INT32"
        it.outputs.add(name=name, datatype=datatype)
        it.raw_output_contents.append(np.array(value, TYPES[datatype]).tobytes())
    return it


def test_a_greedy_request_names_nothing_that_is_drawn() -> None:
    request = layout(NEWEST, 2).request(Generation([5, 6, 7], max_tokens=9), "r-0")

    assert tensors(request) == {
        "input_ids": [5, 6, 7],
        "input_lengths": [3],
        "request_output_len": [9],
        "streaming": [True],
        "exclude_input_in_output": [True],
        "end_id": [2],
        "runtime_top_k": [1],
    }
    assert request.model_name == "tensorrt_llm"
    assert request.id == "r-0"
    # NVIDIA's back end fails a request that does not ask for both.
    assert outputs(request) == ["output_ids", "sequence_length"]


def test_a_drawn_answer_has_temperature_mass_and_seed() -> None:
    generation = Generation(
        [5, 6], 3, temperature=0.5, top_p=0.25, seed=-1, presence_penalty=1.5, min_tokens=2
    )
    request = tensors(layout().request(generation, "r-0"))

    assert request["temperature"] == [0.5]
    assert request["runtime_top_p"] == [0.25]
    assert request["seed"] == [2**64 - 1]
    assert request["min_tokens"] == [2]
    assert request["presence_penalty"] == [1.5]
    assert request["frequency_penalty"] == [0]
    assert "end_id" not in request
    assert "runtime_top_k" not in request


def test_penalties_count_the_answer_alone_where_the_model_can_do_that() -> None:
    generation = Generation([5, 6, 7], 1, frequency_penalty=-2)

    assert tensors(layout().request(generation, "r"))["prompt_ignore_length"] == [3]
    older = layout(model(NEEDED | SAMPLING))
    assert "prompt_ignore_length" not in tensors(older.request(generation, "r"))


def test_inputs_have_the_names_that_the_model_gives_them() -> None:
    old = layout(model(NEEDED | SAMPLING | OLD))
    request = tensors(old.request(Generation([5], 3, temperature=1, seed=7, min_tokens=2), "r"))

    assert (request["random_seed"], request["min_length"]) == ([7], [2])
    assert not request.keys() & NEW.keys()
    assert old.offers >= {"seed", "min_tokens"}


def test_what_the_model_has_no_input_for_is_neither_offered_nor_sent() -> None:
    bare = layout(model(NEEDED), 2, 3)
    generation = Generation([5], 1, temperature=0.5, seed=1, scored=True, guide=Guide("json"))

    assert bare.offers == frozenset()
    assert tensors(bare.request(generation, "r")).keys() == NEEDED.keys()
    assert "logprobs" not in layout(model(NEEDED | NEW)).offers, "there is no such output"
    with pytest.raises(UnfitModelError, match="input_ids, streaming"):
        layout(model({"input_lengths": "INT32", "request_output_len": "INT32"}))


def test_a_mass_of_nothing_is_not_taken_for_no_limit() -> None:
    request = tensors(layout().request(Generation([5], 1, temperature=1, top_p=0), "r-0"))

    assert request["runtime_top_p"] == pytest.approx([1e-6])


def test_further_end_tokens_are_words_that_stop_it() -> None:
    request = tensors(layout(NEWEST, 2, 8, 9).request(Generation([5], 1), "r"))

    assert request["end_id"] == [2]
    assert request["stop_words_list"] == [[8, 9], [1, 2]]
    knowing = layout(NEWEST, 2, 8, 9, knows_its_ends=True)
    assert "stop_words_list" not in tensors(knowing.request(Generation([5], 1), "r"))


def test_log_probabilities_are_asked_for_when_they_are_wanted() -> None:
    it = layout()
    scored = it.request(Generation([5], 1, scored=True), "r")

    assert tensors(scored)["return_log_probs"] == [True]
    assert outputs(scored) == ["output_ids", "sequence_length", "output_log_probs"]
    assert tensors(scored).keys() & {"runtime_top_k", "temperature"}, "else NVIDIA's gives none"
    assert "return_log_probs" not in tensors(it.request(Generation([5], 1), "r"))


def test_a_guide_is_a_type_and_for_a_schema_its_text() -> None:
    def guided(guide: Guide) -> dict[str, Any]:
        return tensors(layout().request(Generation([5], 1, guide=guide), "r"))

    schema = guided(Guide("json_schema", '{"ä":1}'))
    assert schema["guided_decoding_guide_type"] == "json_schema"
    assert schema["guided_decoding_guide"] == '{"ä":1}'
    assert "guided_decoding_guide" not in guided(Guide("json"))


def test_new_ids_are_read_whatever_stands_beside_them() -> None:
    assert read_ids(response(sequence_length=[2], output_ids=[7, 8])) == [7, 8]
    assert read_ids(service_pb2.ModelInferResponse()) == []
    assert read_scored(service_pb2.ModelInferResponse()) == []


@pytest.mark.parametrize("scores", [[-0.5, -2], [-9, -0.5, -2]])
def test_scores_belong_to_the_new_tokens_also_where_all_so_far_are_sent(
    scores: list[float],
) -> None:
    answer = response(output_ids=[7, 8], sequence_length=[3], output_log_probs=scores)

    assert read_scored(answer) == [(7, -0.5), (8, -2)]


def test_ids_that_are_none_and_missing_scores_are_the_engines_failure() -> None:
    with pytest.raises(EngineError, match="-1"):
        read_ids(response(output_ids=[7, -1]))
    with pytest.raises(EngineError, match="1 log prob"):
        read_scored(response(output_ids=[7, 8], output_log_probs=[-1]))
