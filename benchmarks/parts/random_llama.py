"""A checkpoint of random parameters that is served like a real one.

Run as: python -m benchmarks.parts.random_llama FOLDER LAYERS HIDDEN; 16 layers of 2048 are about a
billion parameters in bfloat16. Its tokenizer has letters and what two to four of them make.
"""

import itertools
import string
import sys
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

VOCABULARY: Final = 32_000
CONTEXT: Final = 8192
_END: Final = "<|end|>"
_TEMPLATE: Final = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def main() -> None:
    """Write the checkpoint that the command line names."""
    folder, layers, hidden = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True)
    _write_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=None,  # so that answers are as long as they are asked for
        pad_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    print(model.num_parameters())


def _write_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    longer = (
        ("".join(letters[:-1]), letters[-1])
        for size in (2, 3, 4)
        for letters in itertools.product(string.ascii_lowercase, repeat=size)
    )
    merges = list(itertools.islice(longer, VOCABULARY - len(alphabet) - 1))
    tokens = [_END, *alphabet, *(first + last for first, last in merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END)
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)


if __name__ == "__main__":
    main()
