"""Building in this process, which has PyTorch loaded, and asking what was built."""

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from engineshed.agent.engines.torch.build import build
from engineshed.agent.engines.torch.delivery import Piece
from engineshed.agent.engines.torch.requests import Tensors
from engineshed.agent.engines.torch.serving import LoadedEngine
from engineshed.agent.engines.torch.task import BuildTask
from engineshed.triton.refusal import Refusal

from .checkpoints import VOCABULARY

DEADLINE = 60.0


def build_here(checkpoint: Path, engine: Path, **changes: Any) -> Path:
    """Build an engine in float32 without the detour through another process."""
    task = {
        "checkpoint": str(checkpoint),
        "checkpoint_digest": "sha256:00",
        "destination": str(engine),
        "hardware": "cpu",
        "max_context": None,
        "precision": "float32",
        "max_concurrent": 32,
    }
    build(BuildTask(**(task | changes)), lambda _stage, _fraction: None)
    return engine


def prompts_of(lengths: Sequence[int], seed: int = 1) -> list[list[int]]:
    """Return prompts of random tokens, none of them special."""
    dice = random.Random(seed)
    return [[dice.randrange(3, VOCABULARY) for _ in range(length)] for length in lengths]


def reference(checkpoint: Path, prompts: Sequence[list[int]], new_tokens: int) -> list[list[int]]:
    """Return what transformers' `generate` gives for each prompt alone."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    answers = []
    for prompt in prompts:
        input_ids = torch.tensor([prompt])
        output = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            max_new_tokens=new_tokens,
        )
        answers.append(output[0, len(prompt) :].tolist())
    return answers


@torch.inference_mode()
def log_probabilities(checkpoint: Path, prompt: list[int], answer: list[int]) -> list[float]:
    """Return how likely the model itself finds each token of an answer."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    chosen = torch.tensor(answer)[:, None]
    found: list[float] = logits.log_softmax(-1).gather(1, chosen).ravel().tolist()
    return found


def inputs(prompt: Sequence[int], new_tokens: int, **more: Any) -> Tensors:
    """Return the tensors of a request."""
    values = {
        "input_ids": [list(prompt)],
        "input_lengths": [[len(prompt)]],
        "request_output_len": [[new_tokens]],
        **{name: [[value]] for name, value in more.items()},
    }
    return {name: np.array(value) for name, value in values.items()}


class Collected:
    """An outlet that keeps what is sent, for a test to wait for."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.error: str | None = None
        self.refusal: Refusal | None = None
        self.cancelled = False
        self._changed = threading.Condition()
        self._final = False

    def send(self, piece: Piece, *, final: bool) -> None:
        with self._changed:
            assert not self._final, "nothing comes after the last of it"
            self.pieces.append(piece)
            self._final = final
            self._changed.notify_all()

    def refuse(self, kind: Refusal, message: str) -> None:
        self.refusal, self.error = kind, message
        self.send(Piece(), final=True)

    def is_cancelled(self) -> bool:
        return self.cancelled

    @property
    def messages(self) -> list[list[int]]:
        return [list(piece.tokens) for piece in self.pieces]

    @property
    def tokens(self) -> list[int]:
        return [token for piece in self.pieces for token in piece.tokens]

    @property
    def log_probabilities(self) -> list[float]:
        return [each for piece in self.pieces for each in piece.log_probabilities or ()]

    def end(self) -> None:
        """Wait for the end, whatever it is."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._final, DEADLINE), "no answer in time"

    def answer(self) -> list[int]:
        """Wait for the end and return all tokens."""
        self.end()
        assert self.error is None, self.error
        return self.tokens

    def first(self) -> None:
        """Wait for the first tokens."""
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self.tokens), DEADLINE), "no token in time"


def ask(engine: LoadedEngine, tensors: Tensors) -> Collected:
    """Submit a request."""
    outlet = Collected()
    engine.submit(tensors, outlet)
    return outlet
