from hypothesis import given
from hypothesis import strategies as st

from engineshed.replica.domain.stop_words import StopWords

TEXT = st.text("abc", max_size=30)
WORDS = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4)


def read(words: list[str], pieces: list[str]) -> tuple[str, bool]:
    stop_words = StopWords(words)
    text = ""
    for piece in pieces:
        text += stop_words.feed(piece)
        if stop_words.found:
            return text, True
    return text + stop_words.finish(), False


def cut(words: list[str], text: str) -> tuple[str, bool]:
    """The meaning, plainly: the shortest beginning that ends with a stop word, without it."""
    for end in range(len(text) + 1):
        lengths = [len(word) for word in words if text[:end].endswith(word)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


@given(WORDS, st.lists(TEXT, max_size=8))
def test_text_ends_before_the_stop_word_that_is_complete_first(
    words: list[str], pieces: list[str]
) -> None:
    assert read(words, pieces) == cut(words, "".join(pieces))


@given(WORDS, st.lists(TEXT, max_size=8))
def test_nothing_passes_that_could_still_be_part_of_a_stop_word(
    words: list[str], pieces: list[str]
) -> None:
    stop_words = StopWords(words)
    passed = ""
    for piece in pieces:
        passed += stop_words.feed(piece)
        if stop_words.found:
            break
    ended, _ = cut(words, "".join(pieces))
    assert ended.startswith(passed)


def test_text_that_is_no_stop_word_passes_at_once() -> None:
    stop_words = StopWords(["END"])

    assert stop_words.feed("The E") == "The "
    assert stop_words.feed("agle E") == "Eagle "
    assert stop_words.finish() == "E"
