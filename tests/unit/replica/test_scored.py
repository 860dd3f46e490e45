from typing import Any

from engineshed.replica.domain.answer import Limits
from engineshed.replica.domain.detokenizer import Decoding
from engineshed.replica.domain.scored import ScoredAnswer
from engineshed.replica.logprobs import of_chat, of_completion
from engineshed.replica.spelling import spell_of
from engineshed.replica.tokenizer import decoding_of

END = 0
BYTES = Decoding(
    lambda ids: bytes(token for token in ids if token).decode(errors="replace"), silent={END, 1}
)


def answer(**limits: Any) -> ScoredAnswer:
    asked = Limits(**{"max_tokens": 100, "end_ids": frozenset({END}), **limits})
    return ScoredAnswer(BYTES, lambda token: bytes([token]), asked)


def told(it: ScoredAnswer, data: bytes) -> tuple[str, bytes]:
    """The text that bytes made certain, and the spelling of the tokens told with it."""
    text = it.take([(byte, -byte / 10) for byte in data])
    return text, b"".join(score.spelling for score in it.scores())


def test_a_score_is_told_with_the_text_of_its_token() -> None:
    it = answer()

    assert it.take([(104, -0.5), (105, -1.5)]) == "hi"
    assert it.scores() == [(b"h", -0.5, 0), (b"i", -1.5, 1)]
    assert it.scores() == []


def test_tokens_of_one_character_are_told_when_it_is_whole() -> None:
    it = answer()
    first, *_, last = "a😀".encode()[0:1], "😀".encode()[:2], "😀".encode()[2:]

    assert told(it, first + "😀".encode()[:2]) == ("a", b"a")
    assert told(it, last) == ("😀", "😀".encode())
    assert told(it, b"b") == ("b", b"b")


def test_tokens_that_make_no_text_have_no_score() -> None:
    it = answer()

    assert told(it, b"a\x01b\x00c") == ("ab", b"ab")
    assert (it.tokens, it.finish_reason) == (4, "stop")


def test_what_a_stop_word_cuts_off_is_not_told() -> None:
    it = answer(stop=("stop",))

    assert told(it, b"a st") == ("a ", b"a ")
    assert told(it, b"o") == ("", b"")
    assert told(it, b"p and more") == ("", b"")
    assert (it.tokens, it.finish_reason, it.cut_short) == (6, "stop", True)


def test_what_was_held_back_is_told_when_no_stop_word_came() -> None:
    it = answer(stop=("stop",))

    assert told(it, b"a st") == ("a ", b"a ")
    assert told(it, b"ab") == ("stab", b"stab")
    assert told(it, b" s") == (" ", b" ")
    assert it.end() == "s"
    assert [score.offset for score in it.scores()] == [7]


def test_an_unfinished_character_is_told_at_the_end() -> None:
    it = answer(max_tokens=3)

    text, spelled = told(it, b"a" + "😀".encode()[:2])
    assert (text, spelled) == ("a\N{REPLACEMENT CHARACTER}", b"a" + "😀".encode()[:2])
    assert it.finish_reason == "length"


def test_spellings_joined_are_the_text(pretrained: Any) -> None:
    decoding = decoding_of(pretrained, len(pretrained))
    spell = spell_of(pretrained, decoding)
    ids = pretrained("the abé €b the", add_special_tokens=False)["input_ids"]

    spelled = b"".join(spell(token) for token in ids if token not in decoding.silent).decode()
    text = decoding.decode(ids)
    if decoding.revises:  # a token has its space once another follows it
        spelled, text = spelled.replace(" ", ""), text.replace(" ", "")
    assert spelled.strip() == text.strip()


def test_a_part_of_a_character_is_shown_as_bytes(byte_level_tokenizer: Any) -> None:
    spell = spell_of(byte_level_tokenizer, decoding_of(byte_level_tokenizer, 300))
    tokens = byte_level_tokenizer("ü", add_special_tokens=False)["input_ids"]

    assert [spell(token) for token in tokens] == [b"\xc3", b"\xbc"]
    assert spell(byte_level_tokenizer.convert_tokens_to_ids("</s>")) == b"</s>"
    it = ScoredAnswer(decoding_of(byte_level_tokenizer, 300), spell, Limits(9))
    it.take([(token, -1.0) for token in tokens])
    assert of_chat(it.scores()) == {
        "content": [
            {"token": "\\xc3", "logprob": -1.0, "bytes": [0xC3], "top_logprobs": []},
            {"token": "\\xbc", "logprob": -1.0, "bytes": [0xBC], "top_logprobs": []},
        ],
        "refusal": None,
    }


def test_what_can_hardly_come_has_a_number_that_json_knows() -> None:
    it = answer()
    it.take([(97, float("-inf")), (98, float("nan")), (99, -1.0)])

    assert of_completion(it.scores()) == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [-9999.0, -9999.0, -1.0],
        "top_logprobs": None,
        "text_offset": [0, 1, 2],
    }
