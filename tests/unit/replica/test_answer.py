from typing import Any

import pytest

from engineshed.replica.domain.answer import Answer, Limits
from engineshed.replica.domain.detokenizer import Decoding

END = 0
LETTERS = Decoding(lambda ids: "".join(chr(token) for token in ids), silent={END})


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def answer(**limits: Any) -> Answer:
    return Answer(LETTERS, Limits(**{"max_tokens": 100, "end_ids": frozenset({END}), **limits}))


def test_an_end_token_ends_it_and_counts_as_generated() -> None:
    it = answer()

    assert it.take([*ids("hello"), END, *ids("more")]) == "hello"
    assert (it.tokens, it.finish_reason) == (6, "stop")


def test_the_last_token_asked_for_ends_it_by_length() -> None:
    it = answer(max_tokens=3)

    assert it.take(ids("ab")) == "ab"
    assert it.take(ids("cdef")) == "c"
    assert (it.tokens, it.finish_reason) == (3, "length")


def test_an_end_token_as_the_last_one_asked_for_is_a_stop() -> None:
    it = answer(max_tokens=3)
    it.take([*ids("ab"), END])

    assert it.finish_reason == "stop"


@pytest.mark.parametrize("pieces", [["a stop b"], ["a ", "stop", " b"], [*"a stop b"]])
def test_a_stop_word_ends_it_and_the_count_does_not_depend_on_the_pieces(
    pieces: list[str],
) -> None:
    it = answer(stop=("stop",))

    assert "".join(it.take(ids(piece)) for piece in pieces) == "a "
    assert (it.tokens, it.finish_reason) == (6, "stop")


def test_what_was_held_back_for_a_stop_word_comes_at_the_end() -> None:
    it = answer(stop=("stop",), max_tokens=4)

    assert it.take(ids("a st")) == "a st"
    assert it.finish_reason == "length"


def test_an_end_by_the_engine_alone_is_a_stop() -> None:
    it = answer(stop=("bad",))

    assert it.take(ids("ab")) == "a"
    assert it.end() == "b"
    assert (it.tokens, it.finish_reason) == (2, "stop")


def test_nothing_comes_after_the_end() -> None:
    it = answer(max_tokens=1)
    it.take(ids("a"))

    assert it.take(ids("b")) == ""
    assert it.end() == ""
    assert (it.tokens, it.finish_reason) == (1, "length")
