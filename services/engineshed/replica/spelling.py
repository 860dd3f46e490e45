"""What a single token adds to a text, in bytes of UTF-8.

A token may be a part of a character, and most tokenizers write a space in front of a word as a mark
of their own. So a token that is decoded alone says neither.
"""

import functools
import json
import re
from typing import Any, Final

from engineshed.replica.domain.detokenizer import Decoding
from engineshed.replica.domain.scored import Spell

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_KEPT: Final = 65536
"""Tokens whose spelling is remembered: more than a language's common ones."""


def spell_of(pretrained: Any, decoding: Decoding) -> Spell:  # noqa: ANN401 - not typed
    """Return how the tokens of a tokenizer of transformers are spelled."""
    added = {token: str(text) for token, text in pretrained.added_tokens_decoder.items()}
    of_bytes = _is_byte_level(pretrained)
    byte_of = _byte_of_letter() if of_bytes else {}

    @functools.lru_cache(_KEPT)
    def spell(token: int) -> bytes:
        if token in added:
            return added[token].encode()
        piece: str | None = pretrained.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if of_bytes and all(letter in byte_of for letter in piece):
            return bytes(byte_of[letter] for letter in piece)
        if single := _BYTE_TOKEN.fullmatch(piece):
            return bytes([int(single[1], 16)])
        return _among_others(decoding, token).encode()

    return spell


def _is_byte_level(pretrained: Any) -> bool:  # noqa: ANN401 - not typed
    if not pretrained.is_fast or pretrained.backend_tokenizer.decoder is None:
        return False
    decoder = json.loads(pretrained.backend_tokenizer.decoder.__getstate__())
    return any(each["type"] == "ByteLevel" for each in decoder.get("decoders", [decoder]))


def _byte_of_letter() -> dict[str, int]:
    """Return the bytes that byte-level tokenizers write as these letters."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + number): byte for number, byte in enumerate(others)}


def _among_others(decoding: Decoding, token: int) -> str:
    """Return the text of a token that follows another: itself, of which all is known."""
    alone, twice = decoding.decode([token]), decoding.decode([token, token])
    return twice[len(alone) :] if twice.startswith(alone) else alone
