"""The tensors of Triton's model `tensorrt_llm`: the torch back end and NVIDIA's mean the same.

NVIDIA's is the stand-in here, whose tensors are those of the real one.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.standins.tensorrt_llm import make_image
from tokenizers import Tokenizer

from engineshed.triton.engine import MODEL_NAME
from engineshed.triton.infer import InferenceError
from engineshed.triton.refusal import Refusal

from . import standin
from .checkpoints import MAX_CONTEXT, VOCABULARY
from .engines import prompts_of
from .servers import DEADLINE, Client, Server, load, triton

CHECKPOINT = "llama:bytes"
SAMPLED: dict[str, Any] = {"temperature": 1.2, "runtime_top_p": 0.95}
GREEDY: dict[str, Any] = {"runtime_top_k": 1}
WITHOUT_PROMPT: dict[str, Any] = {"streaming": False, "exclude_input_in_output": True}
REQUIRED = {"input_lengths": "INT32", "request_output_len": "INT32"}
ONE_EACH = {
    "end_id": "INT32",
    "pad_id": "INT32",
    "beam_width": "INT32",
    "temperature": "FP32",
    "runtime_top_k": "INT32",
    "runtime_top_p": "FP32",
    "repetition_penalty": "FP32",
    "presence_penalty": "FP32",
    "frequency_penalty": "FP32",
    "min_tokens": "INT32",
    "seed": "UINT64",
    "return_log_probs": "BOOL",
    "streaming": "BOOL",
    "exclude_input_in_output": "BOOL",
    "guided_decoding_guide_type": "BYTES",
    "guided_decoding_guide": "BYTES",
}
INPUTS = {
    "input_ids": ("INT32", [-1, -1]),
    "stop_words_list": ("INT32", [-1, 2, -1]),
    "bad_words_list": ("INT32", [-1, 2, -1]),
    "embedding_bias": ("FP32", [-1, -1]),
    **{name: (datatype, [-1, 1]) for name, datatype in (REQUIRED | ONE_EACH).items()},
}
OUTPUTS = {
    "output_ids": ("INT32", [-1, -1, -1]),
    "sequence_length": ("INT32", [-1, -1]),
    "output_log_probs": ("FP32", [-1, -1, -1]),
    "cum_log_probs": ("FP32", [-1, -1]),
}


@pytest.fixture(scope="module", params=["torch", "stand-in"])
def server(
    request: pytest.FixtureRequest,
    engine: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """A Triton with an engine of the back end."""
    folder = tmp_path_factory.mktemp("contract")
    if request.param == "torch":
        with triton(engine(CHECKPOINT), folder) as running:
            load(running)
            yield running
        return
    image = make_image(folder / "image")
    info = folder / "xgrammar"
    program = image.app / "examples" / "generate_xgrammar_tokenizer_info.py"
    folders = ("--model_dir", checkpoint(CHECKPOINT), "--output_dir", info)
    standin.run(image, image.bin / "python3", program, *folders)
    standin.render(
        image,
        standin.build(image, checkpoint(CHECKPOINT), folder),
        folder / "repository",
        guided_decoding_backend="xgrammar",
        xgrammar_tokenizer_info_path=info / "xgrammar_tokenizer_info.json",
    )
    with standin.stand_in_triton(image, folder) as running:
        load(running)
        yield running


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server) as connected:
        yield connected


@pytest.fixture
def prompt() -> list[int]:
    [tokens] = prompts_of([9])
    return tokens


def words(*each: Sequence[int]) -> list[list[int]]:
    """Pack words: the tokens of all, and where each ends, then -1."""
    tokens = [token for word in each for token in word]
    ends = [sum(map(len, each[: count + 1])) for count in range(len(each))]
    return [tokens, ends + [-1] * (len(tokens) - len(ends))]


def without_end(answer: list[int], end: int) -> list[int]:
    """Leave out the end token: torch says it, NVIDIA's does not."""
    return answer[:-1] if answer[-1:] == [end] else answer


async def get(server: Server, path: str) -> Any:
    url = f"http://127.0.0.1:{server.ports.http}/v2/models/{MODEL_NAME}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.json()


async def test_the_model_says_the_names_types_and_shapes_of_its_tensors(server: Server) -> None:
    said = await get(server, "")
    inputs = {each["name"]: (each["datatype"], each["shape"]) for each in said["inputs"]}
    outputs = {each["name"]: (each["datatype"], each["shape"]) for each in said["outputs"]}

    assert {name: inputs.get(name) for name in INPUTS} == INPUTS
    assert {name: outputs.get(name) for name in OUTPUTS} == OUTPUTS


async def test_only_the_lengths_must_be_given_and_responses_are_decoupled(server: Server) -> None:
    said = await get(server, "/config")
    required = {each["name"] for each in said["input"] if not each["optional"]}

    assert required - {"input_ids"} == set(REQUIRED)
    assert said["model_transaction_policy"] == {"decoupled": True}


async def test_pieces_of_a_stream_together_are_the_whole_answer(
    client: Client, prompt: list[int]
) -> None:
    streamed = await client.pieces(prompt, 60)
    [whole] = await client.pieces(prompt, 60, **WITHOUT_PROMPT)

    assert len(streamed) > 5
    assert [token for piece in streamed for token in piece] == whole


async def test_the_last_response_alone_says_that_it_is_the_last(
    client: Client, prompt: list[int]
) -> None:
    async with aclosing(client.start(prompt, 12)) as responses:
        final = [
            response.parameters["triton_final_response"].bool_param async for response in responses
        ]

    assert final == [False] * (len(final) - 1) + [True]


@pytest.mark.parametrize("count", [1, 7, MAX_CONTEXT - 9])
async def test_an_answer_has_as_many_tokens_as_were_asked_for(
    client: Client, prompt: list[int], count: int
) -> None:
    assert len(await client.answer(prompt, count)) == count


async def test_an_answer_ends_with_the_end_token(client: Client, prompt: list[int]) -> None:
    endless = await client.answer(prompt, 40)
    end = endless[20]
    ended = await client.answer(prompt, 40, end_id=end)

    assert without_end(ended, end) == endless[: endless.index(end)]


async def test_an_answer_that_ends_at_once_has_no_text(client: Client, prompt: list[int]) -> None:
    [first] = await client.answer(prompt, 1)

    assert without_end(await client.answer(prompt, 5, end_id=first), first) == []
    assert without_end(await client.answer(prompt, 5, end_id=first, **WITHOUT_PROMPT), first) == []


async def test_the_end_waits_for_the_least_number_of_tokens(
    client: Client, prompt: list[int]
) -> None:
    [first] = await client.answer(prompt, 1)
    longer = await client.answer(prompt, 20, end_id=first, min_tokens=6)

    assert len(without_end(longer, first)) >= 6
    assert first not in longer[:6]


async def test_an_answer_ends_with_the_first_of_the_stop_words(
    client: Client, prompt: list[int]
) -> None:
    endless = await client.answer(prompt, 40)
    stop = words([VOCABULARY - 1] * 3, endless[9:11])
    stopped = await client.answer(prompt, 40, stop_words_list=stop)

    assert stopped[-2:] == endless[9:11]
    assert stopped == endless[: len(stopped)]


async def test_bad_words_are_never_said(client: Client, prompt: list[int]) -> None:
    freely = await client.answer(prompt, 30)
    bad = words([freely[3]], freely[8:10])
    said = await client.answer(prompt, 30, bad_words_list=bad)

    assert freely[3] not in said
    assert freely[8:10] not in [said[start : start + 2] for start in range(29)]


async def test_a_bias_makes_a_token_as_likely_as_one_wants(
    client: Client, prompt: list[int]
) -> None:
    bias = [0.0] * VOCABULARY
    bias[77] = 1000.0

    assert await client.answer(prompt, 5, embedding_bias=bias) == [77] * 5


async def test_the_same_seed_gives_the_same_answer_and_others_do_not(
    client: Client, prompt: list[int]
) -> None:
    seeds = (5, 5, 6, 2**64 - 1)
    first, again, *others = await asyncio.gather(
        *(client.answer(prompt, 40, **SAMPLED, seed=seed) for seed in seeds)
    )

    assert first == again
    assert first not in others
    assert others[0] != others[1]


async def test_the_likeliest_is_taken_with_no_choice_and_with_a_choice_of_one(
    client: Client, prompt: list[int]
) -> None:
    unsaid = await client.answer(prompt, 30)
    one = await client.answer(prompt, 30, **GREEDY, temperature=2.0, seed=3)

    assert unsaid == one


async def test_a_small_temperature_and_a_small_share_are_nearly_no_choice(
    client: Client, prompt: list[int]
) -> None:
    likeliest = await client.answer(prompt, 30, **GREEDY)
    cold = await client.answer(prompt, 30, temperature=1e-3, runtime_top_p=1.0, seed=1)
    narrow = await client.answer(prompt, 30, temperature=1.0, runtime_top_p=1e-4, seed=1)

    assert cold == narrow == likeliest


@pytest.mark.parametrize(
    "penalty", [{"presence_penalty": 5.0}, {"frequency_penalty": 5.0}, {"repetition_penalty": 5.0}]
)
async def test_penalties_make_repetitions_rarer(
    client: Client, prompt: list[int], penalty: dict[str, float]
) -> None:
    freely = await client.answer(prompt, 100, **GREEDY)
    penalized = await client.answer(prompt, 100, **GREEDY, **penalty)

    assert len(set(penalized)) > len(set(freely))


async def test_each_token_has_a_log_probability(client: Client, prompt: list[int]) -> None:
    pieces = await client.outputs(prompt, 25, **GREEDY, return_log_probs=True)
    [whole] = await client.outputs(prompt, 25, **GREEDY, **WITHOUT_PROMPT, return_log_probs=True)

    # NVIDIA's says those of all tokens so far in each response: the last are those of the new.
    tails = [
        value
        for piece in pieces
        for value in piece["output_log_probs"].ravel()[-piece["output_ids"].size :]
    ]
    assert len(tails) == 25
    assert all(value <= 0 for value in tails)
    assert tails == pytest.approx(whole["output_log_probs"].ravel().tolist(), abs=1e-3)
    assert whole["output_log_probs"].shape == (1, 1, 25)
    assert whole["cum_log_probs"].tolist() == [[pytest.approx(math.fsum(tails), abs=1e-2)]]


async def test_log_probabilities_come_only_where_they_are_asked_for(
    client: Client, prompt: list[int]
) -> None:
    [outputs] = await client.outputs(prompt, 5, **GREEDY, **WITHOUT_PROMPT)

    assert set(outputs) == {"output_ids", "sequence_length"}


async def test_an_answer_keeps_to_a_schema(
    client: Client, prompt: list[int], checkpoint: Callable[[str], Path]
) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["calm", "wild"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    answer = await client.answer(
        prompt,
        240,
        guided_decoding_guide_type="json_schema",
        guided_decoding_guide=json.dumps(schema),
        end_id=2,
    )

    tokenizer = Tokenizer.from_file(str(checkpoint(CHECKPOINT) / "tokenizer.json"))
    assert json.loads(tokenizer.decode(answer))["mood"] in ("calm", "wild")


async def test_a_guide_that_makes_no_sense_is_refused(client: Client, prompt: list[int]) -> None:
    guide = {"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": "{nonsense"}
    with pytest.raises(InferenceError, match=r"(?i)json"):
        await client.answer(prompt, 5, **guide)

    assert len(await client.answer(prompt, 5)) == 5


async def test_a_prompt_that_is_too_long_is_refused_and_nobody_else_hears_of_it(
    client: Client, prompt: list[int]
) -> None:
    [long] = prompts_of([MAX_CONTEXT + 10])
    undisturbed = await client.answer(prompt, 100)
    beside = asyncio.create_task(client.answer(prompt, 100))

    with pytest.raises(InferenceError, match=str(len(long))):
        await client.answer(long, 5)

    assert await beside == undisturbed


async def test_requests_in_flight_together_get_what_each_gets_alone(client: Client) -> None:
    prompts = prompts_of([3, 40, 7, 90, 17, 1, 60, 25])
    alone = [await client.answer(prompt, 20) for prompt in prompts]
    together = await asyncio.gather(*(client.answer(prompt, 20) for prompt in prompts))

    assert together == alone


async def test_whoever_leaves_makes_room(client: Client) -> None:
    prompts = prompts_of([5] * 32)  # as many as either works on at once
    left = [client.start(prompt, 250) for prompt in prompts]
    await asyncio.gather(*(anext(each) for each in left))
    for each in left:
        await each.aclose()

    async def ask_until_admitted(prompt: list[int]) -> list[int]:
        while True:
            try:
                return await client.answer(prompt, 5)
            except InferenceError as error:
                if error.refusal is not Refusal.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.01)

    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(*(ask_until_admitted(prompt) for prompt in prompts))

    assert [len(answer) for answer in answers] == [5] * len(prompts)
