"""Train the sample model from nothing: python -m sample.train --out DIR.

This takes about half an hour of processor time. Seeds are fixed and every operation is
deterministic, so the same machine with the same versions makes the same files; another processor
rounds differently and makes a model that is as good, but not the same to the bit.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from sample import corpus, evaluate, tokenizer
from sample.corpus import Corpus, Message

SEED: Final = 1829  # the year of the Rainhill trials
STEPS: Final = 1300
WARM_UP: Final = 60
PEAK_RATE: Final = 2e-3
BATCH_TOKENS: Final = 4096
_POOL: Final = 512  # conversations made at a time, to be batched by length
_PLAIN: Final = 0.06  # the part of the examples that is plain text, for completions
_IGNORED: Final = -100  # the label of a token that the model need not produce

# Token ids and labels, each (examples, longest). Padding comes last, where causal attention never
# looks back from, so no mask is needed.
Batch = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    """Train the tokenizer and the model, write them and print how well the model answers."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where to write the checkpoint")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()

    disable_progress_bar()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    rng = random.Random(SEED)

    taught = corpus.load()
    words = tokenizer.train(taught, rng)
    _check(words)
    model = LlamaForCausalLM(_config(words))
    print(f"{model.num_parameters():,} parameters, {len(words)} tokens", flush=True)
    _fit(model, _batches(taught, words, rng), arguments.steps)
    _save(model, words, arguments.out)
    evaluate.report(arguments.out, taught)


def _check(words: PreTrainedTokenizerFast) -> None:
    """Make sure that training sees the very tokens that serving will send."""
    said = [Message("system", "Be kind. "), Message("user", "Hi"), Message("assistant", "Hello!")]
    asked = [{"role": message.role, "content": message.content} for message in said]
    served = words.apply_chat_template(asked, return_dict=False)
    assert served == [token for token, _ in tokenizer.encode(words, said)]


def _config(words: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=tokenizer.VOCABULARY,
        max_position_embeddings=tokenizer.CONTEXT,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def _batches(taught: Corpus, words: PreTrainedTokenizerFast, rng: random.Random) -> Iterator[Batch]:
    """Yield batches for ever; examples of similar length go together, to pad little."""
    while True:
        examples = sorted((_example(taught, words, rng) for _ in range(_POOL)), key=len)
        batches: list[list[list[tuple[int, bool]]]] = [[]]
        for example in examples:
            if len(batches[-1]) >= BATCH_TOKENS // _rounded(len(example)):
                batches.append([])
            batches[-1].append(example)
        rng.shuffle(batches)
        for batch in batches:
            yield _tensors(batch, words.pad_token_id)


def _example(
    taught: Corpus, words: PreTrainedTokenizerFast, rng: random.Random
) -> list[tuple[int, bool]]:
    if rng.random() < _PLAIN:
        sentences = [Message("assistant", rng.choice(taught.facts).answer)]
        begin, _, *rest = tokenizer.encode(words, sentences)  # without the role
        return [begin, *rest]
    return tokenizer.encode(words, corpus.conversation(taught, rng))[: tokenizer.CONTEXT]


def _rounded(length: int) -> int:
    """Round up to 16: fewer shapes of tensors leave fewer holes in memory."""
    return -(-length // 16) * 16


def _tensors(batch: list[list[tuple[int, bool]]], pad: int) -> Batch:
    shape = (len(batch), _rounded(max(map(len, batch))))
    ids = torch.full(shape, pad)
    labels = torch.full(shape, _IGNORED)
    for row, example in enumerate(batch):
        ids[row, : len(example)] = torch.tensor([token for token, _ in example])
        labels[row, : len(example)] = torch.tensor(
            [token if produced else _IGNORED for token, produced in example]
        )
    return ids, labels


def _fit(model: LlamaForCausalLM, batches: Iterator[Batch], steps: int) -> None:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.1
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    started = time.monotonic()
    smooth = math.log(tokenizer.VOCABULARY)
    model.train()
    for step in range(1, steps + 1):
        loss = _loss(model, *next(batches))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        smooth += (loss.item() - smooth) * 0.05
        if step % 50 == 0 or step == steps:
            elapsed = time.monotonic() - started
            print(f"step {step:5}/{steps}  loss {smooth:7.4f}  {elapsed:5.0f} s", flush=True)


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Score the tokens that the model has to produce, and spend nothing on the others."""
    expected = labels[:, 1:]
    produced = expected != _IGNORED
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        scores = model.lm_head(hidden[:, :-1][produced])
    return cross_entropy(scores.float(), expected[produced])


def _rate(step: int, steps: int) -> float:
    """Rise to 1 over the warm-up, then fall to 0 along half a cosine."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (step - WARM_UP) / (steps - WARM_UP))


def _save(model: LlamaForCausalLM, words: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the checkpoint in the layout of Hugging Face, the weights in bfloat16."""
    model.generation_config = GenerationConfig(
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(out)
    words.save_pretrained(out)
    # Transformers before 5 does not know the class that 5 writes; 5 knows the old name.
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (out / "model.safetensors").chmod(0o644)  # written for the owner alone


if __name__ == "__main__":
    main()
