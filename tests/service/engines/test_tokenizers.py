"""Tokenizers that come as the file they were made with, without a tokenizer.json."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AutoTokenizer

from .checkpoints import VOCABULARY, write_checkpoint
from .engines import build_here


def sentencepiece_model(folder: Path) -> dict[str, Any]:
    (folder / "text").write_text("An engine shed is where locomotives are housed and kept.\n" * 9)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
    )
    return {"tokenizer_class": "LlamaTokenizer"}


def tiktoken_model(folder: Path) -> dict[str, Any]:
    pieces = [bytes([byte]) for byte in range(256)] + [b"en", b"gi", b"engi"]
    lines = [f"{base64.b64encode(piece).decode()} {rank}" for rank, piece in enumerate(pieces)]
    (folder / "tokenizer.model").write_text("\n".join(lines))
    return {"tokenizer_class": "PreTrainedTokenizerFast"}


def vocabulary_and_merges(folder: Path) -> dict[str, Any]:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz", "s</w>", "ed</w>"]
    (folder / "vocab.json").write_text(json.dumps({piece: id_ for id_, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\ne d</w> 9\n")
    return {"tokenizer_class": "BioGptTokenizer"}


@pytest.mark.parametrize("write", [sentencepiece_model, tiktoken_model, vocabulary_and_merges])
def test_a_tokenizer_in_the_file_it_was_made_with_comes_along_and_can_be_read(
    write: Any, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint("llama", tmp_path / "checkpoint", tokenizer=False)
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(write(checkpoint)))
    right = AutoTokenizer.from_pretrained(checkpoint)("engine sheds").input_ids

    engine = build_here(checkpoint, tmp_path / "engine")

    tokenizer = AutoTokenizer.from_pretrained(engine / "checkpoint", local_files_only=True)
    assert tokenizer("engine sheds").input_ids == right
    assert len(set(right)) > 3
