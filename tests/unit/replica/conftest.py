"""Small tokenizers of every kind that decodes in its own way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import CTRLTokenizer, PreTrainedTokenizerFast

SPECIAL = ["<s>", "</s>", "<unk>"]
CLEANED = [" ", ".", ",", "'", " '", "n", "'t", "ve", "re", "v", "r", "m", "s", "?", "!", "ab"]


def _fast(backend: Tokenizer, **kwargs: Any) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **kwargs
    )


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2, Llama 3, Qwen: bytes; tokens may hold parts of characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: i for i, text in enumerate(alphabet)}
    merges = []
    for text in ("é", "€", "😀", " the", "你好", "�", "\n\n"):
        symbols = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)[0][0]
        merged = symbols[0]
        for symbol in symbols[1:]:
            merges.append((merged, symbol))
            merged += symbol
            vocab.setdefault(merged, len(vocab))
    backend = Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _fast(backend)


def byte_fallback() -> PreTrainedTokenizerFast:
    """Llama 2, Mistral: words with a mark for the space, bytes for what is unknown."""
    texts = [f"<0x{byte:02X}>" for byte in range(256)]
    texts += ["▁", "a", "b", "▁the", "▁▁", "é", "�", ".", "ab"]
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate(texts)}, [], byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _fast(backend)


def metaspace() -> PreTrainedTokenizerFast:
    """T5, XLM-R: a unigram model; the first space is dropped. Tidies up."""
    texts = ["<unk>", "▁", "▁a", "b", "▁the", "▁▁▁", ".", "▁.", "▁'", "'", "▁n", "'t", "ve", "s"]
    backend = Tokenizer(models.Unigram([(text, -1.0) for text in texts], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return _fast(backend, clean_up_tokenization_spaces=True)


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT: continued words, spaces between all others, tidied up afterwards."""
    texts = ["<unk>", "the", "##s", "##n", "don", *CLEANED, "##'", "##ve"]
    vocab = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return _fast(backend, clean_up_tokenization_spaces=True)


def word_ends() -> PreTrainedTokenizerFast:
    """GPT, XLM: a mark at the end of each word, which is no space at the very end."""
    texts = ["a", "b</w>", "the</w>", ".</w>", "</w>", "un"]
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate(texts)}, []))
    backend.decoder = decoders.BPEDecoder("</w>")
    return _fast(backend)


def words() -> PreTrainedTokenizerFast:
    """Whole words and no decoder: they are joined with spaces."""
    vocab = {text: i for i, text in enumerate(["<unk>", *CLEANED])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    return _fast(backend, clean_up_tokenization_spaces=True)


def joined_in_python(folder: Path) -> CTRLTokenizer:
    """CTRL: a slow one, where a token looks different once another follows it."""
    texts = ["<unk>", "he@@", "l@@", "lo", "a", "b@@", "."]
    (folder / "vocab.json").write_text(json.dumps({text: i for i, text in enumerate(texts)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CTRLTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


FAST = (byte_level, byte_fallback, metaspace, wordpiece, word_ends, words)


@pytest.fixture(scope="module", params=[*FAST, joined_in_python], ids=lambda make: make.__name__)
def pretrained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One tokenizer of each kind."""
    make: Callable[..., Any] = request.param
    if make is joined_in_python:
        return make(tmp_path_factory.mktemp("slow"))
    return make()


@pytest.fixture(scope="session")
def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """The commonest kind."""
    return byte_level()


@pytest.fixture(scope="session")
def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """One that knows few words."""
    return wordpiece()
