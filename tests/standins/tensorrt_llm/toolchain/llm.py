"""A stand-in for TensorRT-LLM's LLM API with the PyTorch runtime: text in, text out."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from tensorrt_llm._torch.models.modeling_utils import (  # type: ignore[import-not-found]
    MODEL_CLASS_MAPPING,  # the image's
)

from .asks import Ask
from .checkpoints import architecture_of, tokens_of_no_text
from .choosing import Choice, Chooser
from .executor import Capacity, Executor, Running
from .gpus import visible_gpus
from .orders import read_order
from .texts import TEXTS

_DEFAULT_MAX_TOKENS: Final = 32


@dataclass(frozen=True)
class Output:
    """The answer so far."""

    text: str
    """All of it, not only what is new."""
    finish_reason: str | None
    stop_reason: str | None
    cumulative_logprob: float
    finished: bool


class LLM:
    """A model in memory.

    Args:
        image: the folder of the image.
        crash: ends the server by the signal of this name.
        model: the folder of a Hugging Face checkpoint.
        backend: `pytorch`.
        tensor_parallel_size: over how many GPUs.
        max_batch_size: how many requests are worked on at once.
        max_seq_len: the most tokens of prompt and answer.
        more: any other argument of the real one's.

    """

    def __init__(
        self,
        image: Path,
        crash: Callable[[str], None],
        *,
        model: str,
        backend: str = "pytorch",
        tensor_parallel_size: int = 1,
        max_batch_size: int = 64,
        max_seq_len: int | None = None,
        **more: Any,
    ) -> None:
        if backend == "tensorrt":
            raise ValueError(TEXTS["tensorrt_backend_removed"].removeprefix("ValueError: "))
        architecture = architecture_of(model)
        if architecture not in MODEL_CLASS_MAPPING:
            raise ValueError(f"Unknown architecture for AutoModelForCausalLM: {architecture}")
        if tensor_parallel_size > len(visible_gpus()):
            raise RuntimeError(f"tensor_parallel_size {tensor_parallel_size} exceeds the GPUs")
        config = json.loads((Path(model) / "config.json").read_text())
        longest = config.get("max_position_embeddings", 2048)
        self._max_seq_len = min(max_seq_len or longest, longest)
        self._tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
        self._executor = Executor(
            Chooser(config["vocab_size"], tokens_of_no_text(model)),
            Capacity(max_batch_size, 1_000_000, 32),
            order=lambda: read_order(image, "serve", takes=False),
            crash=crash,
        )

    def generate(
        self,
        prompt: str,
        sampling: Mapping[str, Any],
        stop: Sequence[str],
        take: Callable[[Output], None],
    ) -> Running:
        """Start on a prompt; give the answer so far to `take` with each token.

        Raises:
            ValueError: it cannot be answered.

        """
        tokens = tuple(self._tokenizer.encode(prompt).ids)
        if len(tokens) >= self._max_seq_len:
            raise ValueError(
                f"The sum of prompt length ({len(tokens)}) and query length max_tokens should not "
                f"exceed max_seq_len ({self._max_seq_len})"
            )
        outlet = _Answer(self._tokenizer, stop, take)
        outlet.running = Running(_ask(tokens, sampling, self._max_seq_len), outlet, None)
        self._executor.submit(outlet.running)
        return outlet.running

    def shutdown(self) -> None:
        """End its thread."""
        self._executor.close()


class _Answer:
    running: Running

    def __init__(self, tokenizer: Any, stop: Sequence[str], take: Callable[[Output], None]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._take = take
        self._stopped = False

    def send(self, choices: list[Choice], *, final: bool) -> None:
        if self._stopped:  # the executor notices with its next token only
            return
        text = self._tokenizer.decode(self.running.answer, skip_special_tokens=True)
        found = [word for word in self._stop if word in text]
        reason = None
        if found:
            self._stopped = self.running.cancelled = True
            text = text[: text.index(found[0])]
            reason = "stop"
        elif final:
            ran_out = len(self.running.choices) >= self.running.ask.max_new_tokens
            reason = "length" if ran_out else "stop"
        self._take(
            Output(
                text=text,
                finish_reason=reason,
                stop_reason=found[0] if found else None,
                cumulative_logprob=sum(choice.log_prob for choice in self.running.choices),
                finished=reason is not None,
            )
        )


def _ask(tokens: tuple[int, ...], sampling: Mapping[str, Any], max_seq_len: int) -> Ask:
    max_tokens = sampling.get("max_tokens", _DEFAULT_MAX_TOKENS)
    sampled = any(name in sampling for name in ("temperature", "top_k", "top_p"))
    return Ask(
        prompt=tokens,
        max_new_tokens=min(max_tokens, max_seq_len - len(tokens)),
        end_id=-1,
        stop_words=(),
        bad_words=(),
        temperature=sampling.get("temperature", 1.0),
        top_k=sampling.get("top_k", 0) if sampled else 1,
        top_p=sampling.get("top_p", 1.0),
        seed=sampling.get("seed", 0),
        repetition_penalty=1.0,
        presence_penalty=sampling.get("presence_penalty", 0.0),
        frequency_penalty=sampling.get("frequency_penalty", 0.0),
        min_tokens=1,
        bias=None,
        log_probs=False,
        guide=None,
        streaming=True,
        with_prompt=False,
    )
