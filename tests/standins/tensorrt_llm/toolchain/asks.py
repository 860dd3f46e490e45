"""What a request to the in-flight batcher asks for, read from its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Tensors = Mapping[str, npt.NDArray[Any]]
Words = tuple[tuple[int, ...], ...]

# Names that some inputs had in older releases.
_OLDER = {"seed": "random_seed", "min_tokens": "min_length"}
_CHOICES = frozenset(("temperature", "runtime_top_k", "runtime_top_p"))


class RefusedError(Exception):
    """The request cannot be honoured; the message is what the real one says."""


@dataclass(frozen=True)
class Limits:
    """What the engine and its configuration allow."""

    max_input_len: int
    max_seq_len: int
    max_beam_width: int
    vocab_size: int


@dataclass(frozen=True)
class Ask:
    """A request."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    end_id: int
    """-1: none."""
    stop_words: Words
    bad_words: Words
    temperature: float
    top_k: int
    """0: of all."""
    top_p: float
    seed: int
    """Where none is given it is 0, as the real one's."""
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    min_tokens: int
    bias: npt.NDArray[np.float32] | None
    log_probs: bool
    guide: tuple[str, str] | None
    """Its type and its text."""
    streaming: bool
    with_prompt: bool
    """Whether the answer starts with the prompt."""


def read_ask(tensors: Tensors, limits: Limits, *, with_prompt: bool) -> Ask:
    """Return what the tensors ask for.

    Raises:
        RefusedError: it cannot be honoured.

    """
    prompt = tuple(map(int, tensors["input_ids"].ravel()))[: int(_one(tensors, "input_lengths", 0))]
    if not prompt:
        raise RefusedError("input_ids must be provided for text inputs")
    if len(prompt) > limits.max_input_len:
        raise RefusedError(
            "Encountered an error when fetching new request: "
            f"Prompt length ({len(prompt)}) exceeds maximum input length "
            f"({limits.max_input_len}). Set log level to info and check TRTGptModel logs for how "
            "maximum input length is set (/src/tensorrt_llm/cpp/batch_manager/llmRequest.cpp:75)"
        )
    beam_width = int(_one(tensors, "beam_width", 1))
    if beam_width > limits.max_beam_width:
        raise RefusedError(
            f"Requested beam width {beam_width} is larger than configured max beam width "
            f"{limits.max_beam_width}"
        )
    # Too many tokens are no error: the real one warns in its log, and gives fewer.
    max_new_tokens = min(
        int(_one(tensors, "request_output_len", 0)), limits.max_seq_len - len(prompt)
    )
    top_k, top_p = int(_one(tensors, "runtime_top_k", 0)), _one(tensors, "runtime_top_p", 0.0)
    if top_k == 0 and top_p <= 0.0:
        top_k = 1  # with neither said, the likeliest is taken, whatever the temperature
    return Ask(
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        end_id=_end_id(tensors, limits),
        stop_words=_words(tensors, "stop_words_list"),
        bad_words=_words(tensors, "bad_words_list"),
        temperature=_one(tensors, "temperature", 1.0),
        top_k=top_k,
        top_p=top_p if top_p > 0.0 else 1.0,
        seed=_seed(tensors),
        repetition_penalty=_one(tensors, "repetition_penalty", 1.0),
        presence_penalty=_one(tensors, "presence_penalty", 0.0),
        frequency_penalty=_one(tensors, "frequency_penalty", 0.0),
        min_tokens=int(_one(tensors, "min_tokens", 0)),
        bias=_bias(tensors, limits),
        # The real one has none where nothing is said of how to choose tokens.
        log_probs=bool(_one(tensors, "return_log_probs", 0)) and not _CHOICES.isdisjoint(tensors),
        guide=_guide(tensors),
        streaming=bool(_one(tensors, "streaming", 0)),
        with_prompt=not _one(tensors, "exclude_input_in_output", float(not with_prompt)),
    )


def _find(tensors: Tensors, name: str) -> npt.NDArray[Any] | None:
    return tensors.get(name, tensors.get(_OLDER.get(name, name)))


def _one(tensors: Tensors, name: str, default: float) -> float:
    values = _find(tensors, name)
    return default if values is None else float(values.ravel()[0])


def _seed(tensors: Tensors) -> int:
    values = _find(tensors, "seed")
    return 0 if values is None else int(values.ravel()[0])  # beyond what a float holds


def _end_id(tensors: Tensors, limits: Limits) -> int:
    end_id = int(_one(tensors, "end_id", -1))
    if not -1 <= end_id < limits.vocab_size:
        raise RefusedError(
            f"EndId ({end_id}) is not within acceptable range [-1, {limits.vocab_size})."
        )
    return end_id


def _words(tensors: Tensors, name: str) -> Words:
    """Unpack [[tokens of all words], [where each word ends, then -1]]."""
    values = _find(tensors, name)
    if values is None:
        return ()
    tokens, ends = (list(map(int, row)) for row in values.reshape(2, -1))
    ends = ends[: ends.index(-1)] if -1 in ends else ends
    if any(end > len(tokens) for end in ends):
        raise RefusedError("Sparse list must not have out-of-bound offsets: " + str(tokens + ends))
    starts = [0, *ends]
    return tuple(tuple(tokens[start:end]) for start, end in zip(starts, ends, strict=False))


def _bias(tensors: Tensors, limits: Limits) -> npt.NDArray[np.float32] | None:
    values = _find(tensors, "embedding_bias")
    if values is None:
        return None
    if values.size != limits.vocab_size:
        raise RefusedError(
            "The embedding bias shape is not as expected. Expected last dimension to be same as "
            f"vocab size: {limits.vocab_size}."
        )
    return np.asarray(values.ravel(), np.float32)


def _guide(tensors: Tensors) -> tuple[str, str] | None:
    kind = _find(tensors, "guided_decoding_guide_type")
    guide = _find(tensors, "guided_decoding_guide")
    if kind is None:
        return None
    return kind.ravel()[0].decode(), "" if guide is None else guide.ravel()[0].decode()
