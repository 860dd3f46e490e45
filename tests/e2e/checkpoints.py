"""Small checkpoints with random weights, in architectures that the project does not ship."""

from pathlib import Path
from typing import Any

TEXT = [
    "An engine shed is where locomotives are housed, serviced and kept in steam.",
    "Größe, café, naïve, Ελλάδα, Москва, 日本語, 한국어, 🚂🔥",
    "def main() -> None:\n    print('hello')\n",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(directory: Path, chat_template: str | None) -> int:
    """Write a byte-level BPE tokenizer; return the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = chat_template
    fast.save_pretrained(directory)
    return len(fast)


def make_checkpoint(
    directory: Path,
    architecture: str = "qwen2",
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    seed: int = 0,
    context: int = 256,
) -> Path:
    """Write a checkpoint of about 100,000 random parameters in float32."""
    import torch
    import transformers

    vocabulary = make_tokenizer(directory, chat_template)
    torch.manual_seed(seed)
    config = _config(transformers, architecture, vocabulary, context)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that greedy decoding does not repeat one token for ever
    model.save_pretrained(directory)
    return directory


def _config(transformers: Any, architecture: str, vocabulary: int, context: int) -> Any:
    if architecture == "gpt2":
        return transformers.GPT2Config(
            vocab_size=vocabulary, n_positions=context, n_embd=48, n_layer=2, n_head=4,
            bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
    classes = {
        "qwen2": transformers.Qwen2Config,
        "mistral": transformers.MistralConfig,
        "gptj": transformers.GPTJConfig,
    }
    if architecture == "gptj":
        return transformers.GPTJConfig(
            vocab_size=vocabulary, n_positions=context, n_embd=48, n_layer=2, n_head=4,
            rotary_dim=12, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
    if architecture == "gpt_oss":
        return transformers.GptOssConfig(
            vocab_size=vocabulary, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_local_experts=4,
            num_experts_per_tok=2, max_position_embeddings=context, sliding_window=32,
            bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
    return classes[architecture](
        vocab_size=vocabulary, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip


class Reference:
    """What transformers itself answers."""

    def __init__(self, directory: Path) -> None:
        import torch
        import transformers

        self.tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32
        ).eval()

    def prompt(self, question: str) -> list[int]:
        """Return the token ids of a question as a chat."""
        messages = [{"role": "user", "content": question}]
        ids = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        return [int(token) for token in ids]

    def answer(self, prompt: list[int], max_tokens: int) -> tuple[str, list[int]]:
        """Return the greedy answer: its text and its tokens."""
        import torch

        ids = torch.tensor([prompt])
        with torch.no_grad():
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=max_tokens,
            )
        tokens = [int(token) for token in out[0][len(prompt) :]]
        return self.tokenizer.decode(tokens, skip_special_tokens=True), tokens
