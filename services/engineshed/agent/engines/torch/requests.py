"""From the tensors of NVIDIA's tensorrtllm back end to a request, or to the reason why not."""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from engineshed.agent.engines.torch.generation import Generation, Sampling
from engineshed.triton.engine import EngineManifest

Tensors = Mapping[str, npt.NDArray[np.generic]]
"""The inputs of one request, by name."""

_UNLIMITED: Final = math.inf


class InvalidRequestError(Exception):
    """The request cannot be honoured; the message names the input."""


def read_request(request_id: str, tensors: Tensors, engine: EngineManifest) -> Generation:
    """Return what the inputs ask for.

    Raises:
        InvalidRequestError: an input is out of its range, or all of it is too long.

    """
    beam_width = int(_number(tensors, "beam_width", default=1, least=0))
    if beam_width > 1:
        raise InvalidRequestError(f"beam_width {beam_width}: this engine does no beam search")
    if not flag(tensors, "exclude_input_in_output", default=True):
        raise InvalidRequestError("exclude_input_in_output false: answers come without the prompt")
    prompt = _prompt(tensors, engine)
    max_new_tokens = int(_number(tensors, "request_output_len", least=1))
    if len(prompt) + max_new_tokens > engine.max_context:
        raise InvalidRequestError(
            f"input_lengths {len(prompt)} and request_output_len {max_new_tokens} together exceed "
            f"the engine's max_context of {engine.max_context} tokens"
        )
    return Generation(
        request_id=request_id,
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        end_ids=_end_ids(tensors, engine),
        stop_words=_stop_words(tensors),
        sampling=_sampling(tensors),
    )


def flag(tensors: Tensors, name: str, *, default: bool) -> bool:
    """Return the value of the boolean input `name`."""
    return bool(_number(tensors, name, default=default))


def _prompt(tensors: Tensors, engine: EngineManifest) -> list[int]:
    prompt: list[int] = tensors["input_ids"].ravel().tolist()
    length = int(_number(tensors, "input_lengths", least=1))
    if length > len(prompt):
        raise InvalidRequestError(
            f"input_lengths {length} is more than the {len(prompt)} tokens in input_ids"
        )
    prompt = prompt[:length]
    if strange := [token for token in prompt if not 0 <= token < engine.vocab_size]:
        raise InvalidRequestError(
            f"input_ids has the token {strange[0]}; the model has those from 0 to "
            f"{engine.vocab_size - 1}"
        )
    return prompt


def _end_ids(tensors: Tensors, engine: EngineManifest) -> frozenset[int]:
    """Return the tokens that end the answer: none, if the request names none, as with NVIDIA's.

    NVIDIA's takes one; an engine that knows several ends at any of them.
    """
    end_id = int(_number(tensors, "end_id", default=-1))
    return frozenset({end_id, *engine.eos_token_ids}) if end_id >= 0 else frozenset()


def _stop_words(tensors: Tensors) -> tuple[tuple[int, ...], ...]:
    """Unpack [[tokens of all words], [where each word ends, then -1]]."""
    if "stop_words_list" not in tensors:
        return ()
    tokens, ends = tensors["stop_words_list"].reshape(2, -1).tolist()
    words, start = [], 0
    for end in ends:
        if end < 0:
            break
        if not start < end <= len(tokens):
            raise InvalidRequestError("stop_words_list: its offsets do not fit its tokens")
        words.append(tuple(tokens[start:end]))
        start = end
    return tuple(words)


def _sampling(tensors: Tensors) -> Sampling:
    """Read how tokens are chosen. With nothing said of it, the likeliest is taken."""
    names = ("temperature", "runtime_top_k", "runtime_top_p")
    unsaid = not any(name in tensors for name in names)
    return Sampling(
        temperature=0.0 if unsaid else _number(tensors, "temperature", default=1.0, least=0.0),
        top_k=int(_number(tensors, "runtime_top_k", default=0, least=0)),
        # NVIDIA's takes 0 for "not set".
        top_p=_number(tensors, "runtime_top_p", default=1.0, least=0.0, most=1.0) or 1.0,
        seed=int(tensors["seed"].ravel()[0]) if "seed" in tensors else None,
        repetition_penalty=_repetition_penalty(tensors),
        presence_penalty=_number(tensors, "presence_penalty", default=0.0),
        frequency_penalty=_number(tensors, "frequency_penalty", default=0.0),
    )


def _repetition_penalty(tensors: Tensors) -> float:
    penalty = _number(tensors, "repetition_penalty", default=1.0)
    if penalty <= 0:
        raise InvalidRequestError(f"repetition_penalty {penalty} is not above 0")
    return penalty


def _number(
    tensors: Tensors,
    name: str,
    *,
    default: float | None = None,
    least: float = -_UNLIMITED,
    most: float = _UNLIMITED,
) -> float:
    if name not in tensors:
        if default is None:
            raise InvalidRequestError(f"{name} is missing")
        return default
    values = tensors[name].ravel()
    if values.size != 1:
        raise InvalidRequestError(f"{name} has {values.size} values; it takes one")
    value = float(values[0])
    if not math.isfinite(value) or not least <= value <= most:
        raise InvalidRequestError(f"{name} {value:g} is out of range")
    return value
