"""Holding answers to JSON, a schema, a regular expression or a grammar: llguidance does the work.

A grammar is compiled once a request names it, beside the decoder's steps and never in them. A step
then asks which tokens may come next, which takes some microseconds, and rules out the others.
"""

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import llguidance.hf
import llguidance.numpy
import numpy as np
import numpy.typing as npt
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark
from torch import Tensor
from transformers import AutoTokenizer, LogitsProcessor

from engineshed.agent.engines.torch.generation import Guide
from engineshed.agent.engines.torch.requests import InvalidRequestError
from engineshed.triton.engine import EngineManifest

_GRAMMARS_KEPT: Final = 16
"""Endpoints mostly ask for the same few."""
_LIMITS: Final = LLParserLimits(max_lexer_states=50_000)
"""A state takes 1 to 2 kB, and comes to be when an answer needs it."""
_WHITESPACE: Final = r"[ \n\r\t]{1,32}"
"""Between the parts of JSON: as the model likes it, but not for ever."""
_LONGEST_REASON: Final = 500
"""In characters."""


class UnknownTokenizerError(Exception):
    """llguidance cannot tell what text a tokenizer's tokens stand for; the message says why."""


class Guides:
    """Makes of guides what holds answers to them. For one engine; safe to use from any thread.

    The tokenizer is read when the first guide comes: that takes about a second if it is large.
    """

    def __init__(self, tokenizer: Path, manifest: EngineManifest) -> None:
        self._folder = tokenizer
        self._manifest = manifest
        self._lock = threading.Lock()
        self._compiled = functools.lru_cache(_GRAMMARS_KEPT)(self._compile)

    def constraint(
        self, guide: Guide, prompt_length: int, on_error: Callable[[str], None]
    ) -> "Guided":
        """Return what holds the answer to one prompt to `guide`.

        Args:
            guide: what the request asks for.
            prompt_length: in tokens.
            on_error: called in a step when it turns out to be more than can be followed.

        Raises:
            InvalidRequestError: it makes no sense, or is too large.

        """
        with self._lock:
            matcher = self._compiled(guide).deep_copy()
        return Guided(matcher, prompt_length, self._manifest.eos_token_ids, on_error)

    @functools.cached_property
    def _tokenizer(self) -> LLTokenizer:
        manifest = self._manifest
        return read_tokenizer(self._folder, manifest.vocab_size, manifest.eos_token_ids)

    def _compile(self, guide: Guide) -> LLMatcher:
        try:
            grammar = _grammar(guide)
        except Exception as error:  # the library's converter raises what comes
            raise _refused(guide, str(error)) from error
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _refused(guide, matcher.get_error())
        return matcher


class Guided(LogitsProcessor):  # type: ignore[misc]  # transformers has no types for mypy
    """Rules out the tokens with which the answer would leave its grammar. For one request.

    When the grammar is complete an end token may follow, and nothing else once there is no more to
    come of it.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        prompt_length: int,
        end_ids: tuple[int, ...],
        on_error: Callable[[str], None],
    ) -> None:
        self._matcher = matcher
        self._read = prompt_length
        self._end_ids = list(end_ids)
        self._on_error = on_error

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores with -inf for what may not come next."""
        self._matcher.consume_tokens(input_ids[0, self._read :].tolist())
        self._read = input_ids.shape[1]
        allowed = torch.from_numpy(self._allowed(scores.shape[-1])).to(scores.device)
        return scores.masked_fill(~allowed, -torch.inf)

    def _allowed(self, vocabulary: int) -> npt.NDArray[np.bool_]:
        bits = llguidance.numpy.allocate_token_bitmask(1, vocabulary)
        if not self._matcher.is_error():
            llguidance.numpy.fill_next_token_bitmask(self._matcher, bits)
        allowed = np.unpackbits(bits.view(np.uint8)[0], count=vocabulary, bitorder="little").view(
            np.bool_
        )
        if self._matcher.is_error():
            # A step must not fail: it is that of others, too. The answer ends instead, with this.
            self._on_error(f"the answer cannot be guided on: {self._matcher.get_error()}")
            allowed[:] = False
            allowed[self._end_ids] = True
        return allowed


def read_tokenizer(folder: Path, vocabulary: int, end_ids: tuple[int, ...]) -> LLTokenizer:
    """Return the tokenizer in `folder` as llguidance has it.

    Args:
        folder: with the files of a Hugging Face tokenizer.
        vocabulary: how many tokens the model has scores for.
        end_ids: the tokens that end an answer.

    Raises:
        UnknownTokenizerError: it cannot be used.

    """
    if not end_ids:
        raise UnknownTokenizerError("the checkpoint names no token that ends an answer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        return llguidance.hf.from_tokenizer(tokenizer, vocabulary, list(end_ids))
    except Exception as error:  # the library has no errors of its own
        reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
        raise UnknownTokenizerError(reason) from error


def _grammar(guide: Guide) -> str:
    match guide.kind:
        case "json":
            return _json_grammar('{"type": "object"}')
        case "json_schema":
            return _json_grammar(guide.text)
        case "regex":
            return LLMatcher.grammar_from_regex(guide.text)
        case _:
            return LLMatcher.grammar_from_lark(any_to_lark(guide.text))


def _json_grammar(schema: str) -> str:
    return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _WHITESPACE})


def _refused(guide: Guide, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"guided_decoding_guide, {guide.kind}: {reason[:_LONGEST_REASON]}")
