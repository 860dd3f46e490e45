"""generate_xgrammar_tokenizer_info.py: what guided decoding must know of a tokenizer."""

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer

from .orders import obey


def main() -> None:
    """Write xgrammar_tokenizer_info.json."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--output_dir", required=True)
    arguments = parser.parse_args()
    obey("tokenizer_info")
    file = Path(arguments.model_dir) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    vocabulary = tokenizer.get_vocab()
    info = {
        "tokenizer_info": {"vocab_type": 0, "vocab_size": len(vocabulary), "stop_token_ids": []},
        "encoded_vocab": sorted(vocabulary, key=vocabulary.__getitem__),
        "tokenizer_str": file.read_text(encoding="utf-8"),
    }
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / "xgrammar_tokenizer_info.json").write_text(json.dumps(info))
