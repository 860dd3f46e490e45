"""Transformers alone on the GPU: what a checkpoint's own library makes of the same prompts.

Run as: python -m benchmarks.parts.bare_transformers CHECKPOINT PROMPTS. For each line of standard
input, `{"how", "requests", "tokens"}`, it answers with one, `{"seconds", "tokens"}`; with `"how"`
being `generate` (one static batch) or `generate_batch` (its continuous batching, kept up between
the lines, with a cache of the size of ours, for left alone it takes all the memory there is).
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    PreTrainedModel,
)

Ids = list[list[int]]

DEVICE: Final = "cuda" if torch.cuda.is_available() else "cpu"
_PAGE: Final = 32
_CACHE_TOKENS: Final = 32 * 4096
_REQUESTS: Final = 32


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # so that no library's chatter comes among the answers
    checkpoint = Path(sys.argv[1])
    prompts: list[str] = json.loads(Path(sys.argv[2]).read_text())
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    ids: Ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto").to(DEVICE).eval()
    for line in sys.stdin:
        asked = json.loads(line)
        run = {"generate": _generate, "generate_batch": _generate_batch}[asked["how"]]
        began = time.monotonic()
        tokens = run(model, ids[: asked["requests"]], asked["tokens"])
        answers.write(json.dumps({"seconds": time.monotonic() - began, "tokens": tokens}) + "\n")


@torch.inference_mode()
def _generate(model: PreTrainedModel, ids: Ids, tokens: int) -> int:
    """Return how many tokens there are, in one batch, padded on the left; the GPU has ended."""
    longest = max(map(len, ids))
    padded = [[0] * (longest - len(each)) + each for each in ids]
    mask = [[0] * (longest - len(each)) + [1] * len(each) for each in ids]
    output: Any = model.generate(
        torch.tensor(padded, device=DEVICE),
        attention_mask=torch.tensor(mask, device=DEVICE),
        max_new_tokens=tokens,
        do_sample=False,
    )
    return int(output[:, longest:].cpu().numel())


def _generate_batch(model: PreTrainedModel, ids: Ids, tokens: int) -> int:
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1)
    outputs = model.generate_batch(
        ids,
        generation_config=config,
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=_PAGE,
            num_blocks=_CACHE_TOKENS // _PAGE + _REQUESTS,
            max_batch_tokens=1024,
            max_requests_per_batch=_REQUESTS,
        ),
        persistent_manager=True,
    )
    return sum(len(each.generated_tokens) for each in outputs.values())


if __name__ == "__main__":
    main()
