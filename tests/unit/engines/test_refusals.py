"""Errors of models travel as text: their kind is in front of it."""

import pytest

from engineshed.triton.infer import read_error
from engineshed.triton.refusal import Refusal


@pytest.mark.parametrize("kind", Refusal)
def test_the_kind_and_the_message_arrive(kind: Refusal) -> None:
    error = read_error(kind.text("seed: out of range"))

    assert (error.refusal, error.message) == (kind, "seed: out of range")


@pytest.mark.parametrize("text", ["Stub process is not healthy.", "input: bad", ""])
def test_the_words_of_others_are_kept_whole(text: str) -> None:
    error = read_error(text)

    assert (error.refusal, error.message) == (Refusal.INTERNAL, text)
