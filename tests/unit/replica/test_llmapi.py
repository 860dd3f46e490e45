import struct
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from engineshed.replica.domain.answer import Limits
from engineshed.replica.domain.text_answer import TextAnswer, TextPiece
from engineshed.replica.engine import EngineError, Generation
from engineshed.replica.llmapi import Growth, TextLayout
from engineshed.replica.tensors import UnfitModelError
from engineshed.replica.tokenizer import Tokenizer
from engineshed.triton.control import ModelTensors, Tensor

INPUTS = {"text_input": "BYTES", "streaming": "BOOL", "return_finish_reason": "BOOL"}
PARAMETERS = {"max_tokens": "INT32", "temperature": "FP32", "top_k": "INT32", "top_p": "FP32"}
PARAMETERS |= {"seed": "UINT64", "presence_penalty": "FP32", "exclude_input_from_output": "BOOL"}
TYPES = {"INT32": "<i4", "FP32": "<f4", "UINT64": "<u8", "BOOL": "?"}


def layout(**parameters: str) -> TextLayout:
    inputs = INPUTS | {f"sampling_param_{name}": kind for name, kind in parameters.items()}
    return TextLayout(
        ModelTensors(
            tuple(Tensor(name, kind, (-1,)) for name, kind in inputs.items()),
            (Tensor("text_output", "BYTES", (-1,)), Tensor("finish_reason", "BYTES", (-1,))),
        )
    )


def values(request: service_pb2.ModelInferRequest) -> dict[str, Any]:
    assert all(list(tensor.shape) == [1] for tensor in request.inputs), "there is no batch"
    return {
        tensor.name: raw[4:].decode()
        if tensor.datatype == "BYTES"
        else np.frombuffer(raw, TYPES[tensor.datatype])[0]
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def response(text: str, reason: str | None = None) -> service_pb2.ModelInferResponse:
    it = service_pb2.ModelInferResponse()
    told = {"text_output": text} | ({} if reason is None else {"finish_reason": reason})
    for name, value in told.items():
        it.outputs.add(name=name, datatype="BYTES")
        it.raw_output_contents.append(struct.pack("<I", len(value.encode())) + value.encode())
    return it


def read(*texts: str, reason: str = "stop") -> list[str]:
    growth = Growth()
    *some, last = texts
    pieces = [growth.read(response(text, "None")) for text in some]
    pieces.append(growth.read(response(last, reason)))
    return [piece.text for piece in pieces if piece]


def answer(**limits: Any) -> TextAnswer:
    return TextAnswer(len, Limits(**{"max_tokens": 100, **limits}))


def test_a_request_has_the_prompt_as_text_and_only_parameters_that_there_are() -> None:
    it = layout(**PARAMETERS)
    drawn = Generation(
        [1], 9, text="Hällo", temperature=0.5, top_p=0.25, seed=3, presence_penalty=1, min_tokens=2
    )

    assert values(it.request(drawn, "r")) == {
        "text_input": "Hällo",
        "streaming": True,
        "return_finish_reason": True,
        "sampling_param_exclude_input_from_output": True,
        "sampling_param_max_tokens": 9,
        "sampling_param_temperature": 0.5,
        "sampling_param_top_p": 0.25,
        "sampling_param_seed": 3,
        "sampling_param_presence_penalty": 1,
    }
    greedy = values(it.request(Generation([1], 9, text="a"), "r"))
    assert greedy["sampling_param_top_k"] == 1
    assert "sampling_param_temperature" not in greedy
    assert it.offers == {"temperature", "top_p", "seed", "presence_penalty"}
    with pytest.raises(UnfitModelError, match="sampling_param_max_tokens"):
        layout()


def test_what_grows_is_told_in_pieces() -> None:
    assert read("Hel", "Hello", "Hello", "Hello!") == ["Hel", "lo", "", "!"]


def test_a_character_that_is_not_whole_is_held_back() -> None:
    assert read("a", "a\ufffd", "a\ufffd\ufffd", "a😀b") == ["a", "", "", "😀b"]
    assert read("a\ufffdb", "a\ufffdb\ufffd", "a\ufffdb\ufffd") == ["a\ufffdb", "", "\ufffd"]
    growth = Growth()
    growth.read(response("a\ufffd"))
    assert growth.held == "\ufffd", "whoever is told no reason asks for it at the end"


def test_text_that_is_taken_back_and_an_end_by_a_failure_are_errors() -> None:
    with pytest.raises(EngineError, match="continue"):
        read("Hello", "Help")
    with pytest.raises(EngineError, match="cancelled"):
        read("Hello", reason="cancelled")
    assert Growth().read(service_pb2.ModelInferResponse()) is None


def test_an_answer_ends_as_the_engine_says() -> None:
    it = answer(max_tokens=4)

    assert it.take([TextPiece("ab"), TextPiece("c", "stop")]) == "abc"
    assert (it.tokens, it.finish_reason, it.cut_short) == (4, "stop", False)
    assert it.take([TextPiece("more")]) == it.end() == ""
    long = answer(max_tokens=9)
    long.take([TextPiece("abc", "length")])
    assert (long.tokens, long.finish_reason) == (9, "length"), "as many as were asked for"


def test_where_the_engine_says_nothing_the_length_tells_how_it_ended() -> None:
    full, short = answer(max_tokens=3), answer(max_tokens=4)
    for it in (full, short):
        it.take([TextPiece("abc")])
        assert it.end() == ""

    assert (full.tokens, full.finish_reason) == (3, "length")
    assert (short.tokens, short.finish_reason) == (4, "stop")


def test_a_stop_word_cuts_text_short() -> None:
    it = answer(stop=("stop",))

    assert it.take([TextPiece("a st")]) == "a "
    assert it.take([TextPiece("op b"), TextPiece("c", "length")]) == ""
    assert (it.finish_reason, it.cut_short, it.tokens) == ("stop", True, 8)


async def test_special_tokens_that_are_added_again_are_not_sent_twice(
    byte_level_tokenizer: Any,
) -> None:
    from tokenizers.processors import TemplateProcessing

    begun = byte_level_tokenizer.__class__(
        tokenizer_object=byte_level_tokenizer.backend_tokenizer, bos_token="<s>"
    )
    begun.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", begun.bos_token_id)]
    )
    begun.chat_template = "<s>{{ messages[0].content }}"
    messages = [{"role": "user", "content": "Hi"}]

    for_ids = await Tokenizer(begun, 300, 100).encode_chat(messages)
    for_text = await Tokenizer(begun, 300, 100, for_text=True).encode_chat(messages)

    assert for_text.text == "Hi"
    assert (
        list(for_text.ids)
        == list(for_ids.ids)
        == [begun.bos_token_id, *begun("Hi")["input_ids"][1:]]
    )
