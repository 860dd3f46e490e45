from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engineshed.replica.domain.detokenizer import Decoding, Detokenizer
from engineshed.replica.tokenizer import decoding_of

PADDING = 5
"""Ids past the vocabulary, as models have them whose vocabulary is padded."""


def in_pieces(decoding: Decoding, ids: list[int], sizes: list[int]) -> list[str]:
    detokenizer = Detokenizer(decoding)
    pieces = []
    while ids:
        size = sizes.pop() if sizes else 1
        pieces.append(detokenizer.add(ids[:size]))
        ids = ids[size:]
    return [*pieces, detokenizer.finish()]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_pieces_joined_are_the_text_of_all_ids(pretrained: Any, data: st.DataObject) -> None:
    size = len(pretrained) + (PADDING if pretrained.is_fast else 0)
    some = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size))
    ids = data.draw(st.lists(st.sampled_from(some), max_size=100))
    sizes = data.draw(st.lists(st.integers(1, 9), max_size=20))

    pieces = in_pieces(decoding_of(pretrained, size), ids, sizes)

    assert "".join(pieces) == pretrained.decode(ids, skip_special_tokens=True)


def test_text_comes_with_its_token(byte_level_tokenizer: Any) -> None:
    ids = byte_level_tokenizer("ab the 😀\n\n", add_special_tokens=False)["input_ids"]
    decoding = decoding_of(byte_level_tokenizer, len(byte_level_tokenizer))

    assert in_pieces(decoding, ids, []) == ["a", "b", " the", " ", "😀", "\n\n", ""]


def test_half_a_character_is_held_back(byte_level_tokenizer: Any) -> None:
    vocab = byte_level_tokenizer.get_vocab()
    ids = [vocab[symbol] for symbol in "âĤ¬"]  # the three bytes of €
    decoding = decoding_of(byte_level_tokenizer, len(byte_level_tokenizer))

    assert in_pieces(decoding, [*ids, vocab["a"]], []) == ["", "", "€", "a", ""]
    assert in_pieces(decoding, [*ids[:2], vocab["a"]], []) == ["", "", "�a", ""]
    assert in_pieces(decoding, ids[:2], []) == ["", "", "�"]


def test_a_long_answer_is_decoded_a_few_tokens_at_a_time() -> None:
    decoded: list[int] = []

    def decode(ids: list[int]) -> str:
        decoded.append(len(ids))
        return "".join(chr(token) for token in ids)

    ids = [ord("a") + i % 26 for i in range(5000)]
    in_pieces(Decoding(decode), ids, [])

    assert max(decoded) < 50
    assert sum(decoded) < 25 * len(ids)
