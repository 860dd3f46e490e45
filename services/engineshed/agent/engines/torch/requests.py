"""From the tensors of NVIDIA's tensorrtllm back end to a request, or to the reason why not."""

import math
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from engineshed.agent.engines.torch.generation import Generation, Guide, Sampling
from engineshed.triton.engine import EngineManifest

Tensors = Mapping[str, npt.NDArray[np.generic]]
"""The inputs of one request, by name."""

GUIDES: Final = ("json", "json_schema", "regex", "ebnf_grammar")
"""What an answer can be held to."""

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
    guide = _guide(tensors, engine)
    return Generation(
        request_id=request_id,
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        end_ids=_end_ids(tensors, engine, guided=guide is not None),
        stop_words=_words(tensors, "stop_words_list"),
        sampling=_sampling(tensors, engine),
        log_probabilities=flag(tensors, "return_log_probs", default=False),
        guide=guide,
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
    _check_tokens("input_ids", prompt, engine)
    return prompt


def _check_tokens(name: str, tokens: Iterable[int], engine: EngineManifest) -> None:
    if strange := [token for token in tokens if not 0 <= token < engine.vocab_size]:
        raise InvalidRequestError(
            f"{name} has the token {strange[0]}; the model has those from 0 to "
            f"{engine.vocab_size - 1}"
        )


def _end_ids(tensors: Tensors, engine: EngineManifest, *, guided: bool) -> frozenset[int]:
    """Return the tokens that end the answer: none, if the request names none, as with NVIDIA's.

    NVIDIA's takes one; an engine that knows several ends at any of them. So does an answer that is
    held to something: when that is complete, nothing but an end token may follow.
    """
    end_id = int(_number(tensors, "end_id", default=-1))
    named = {end_id} if end_id >= 0 else set()
    return frozenset({*named, *engine.eos_token_ids}) if named or guided else frozenset()


def _guide(tensors: Tensors, engine: EngineManifest) -> Guide | None:
    """Read what the answer is held to; a `json` needs no more than its kind."""
    kind = _text(tensors, "guided_decoding_guide_type")
    text = _text(tensors, "guided_decoding_guide")
    if kind is None:
        if text is not None:
            raise InvalidRequestError("guided_decoding_guide without guided_decoding_guide_type")
        return None
    if kind not in GUIDES:
        raise InvalidRequestError(
            f"guided_decoding_guide_type {kind!r:.40} is none of {', '.join(GUIDES)}"
        )
    if not engine.guided_decoding:
        raise InvalidRequestError(
            f"guided_decoding_guide_type {kind}: this engine's answers cannot be held to anything; "
            "the log of its build says why"
        )
    if kind != "json" and not text:
        raise InvalidRequestError(f"guided_decoding_guide is missing for {kind}")
    return Guide(kind, text or "")


def _words(tensors: Tensors, name: str) -> tuple[tuple[int, ...], ...]:
    """Unpack [[tokens of all words], [where each word ends, then -1]]."""
    if name not in tensors:
        return ()
    tokens, ends = tensors[name].reshape(2, -1).tolist()
    words, start = [], 0
    for end in ends:
        if end < 0:
            break
        if not start < end <= len(tokens):
            raise InvalidRequestError(f"{name}: its offsets do not fit its tokens")
        words.append(tuple(tokens[start:end]))
        start = end
    return tuple(words)


def _bad_words(tensors: Tensors, engine: EngineManifest) -> tuple[tuple[int, ...], ...]:
    words = _words(tensors, "bad_words_list")
    _check_tokens("bad_words_list", [token for word in words for token in word], engine)
    return words


def _bias(tensors: Tensors, engine: EngineManifest) -> npt.NDArray[np.float32] | None:
    if "embedding_bias" not in tensors:
        return None
    bias = tensors["embedding_bias"].ravel().astype(np.float32)
    if bias.size > engine.vocab_size:
        raise InvalidRequestError(
            f"embedding_bias has {bias.size} values for the {engine.vocab_size} tokens of the model"
        )
    if not np.isfinite(bias).all():
        raise InvalidRequestError("embedding_bias has values that are no numbers")
    return bias


def _sampling(tensors: Tensors, engine: EngineManifest) -> Sampling:
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
        bias=_bias(tensors, engine),
        bad_words=_bad_words(tensors, engine),
        min_tokens=int(_number(tensors, "min_tokens", default=0, least=0)),
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


def _text(tensors: Tensors, name: str) -> str | None:
    if name not in tensors:
        return None
    values = tensors[name].ravel().tolist()
    if len(values) != 1:
        raise InvalidRequestError(f"{name} has {len(values)} values; it takes one")
    value = values[0]
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{name} is not UTF-8") from error
