"""A decoding loop of its own for every request: right for any causal language model.

The loop is transformers' `generate` itself, with the checkpoint's own generation settings, so its
greedy output is `generate`'s by construction. Each request has a thread; they take turns at the
model, step by step, so all of them progress and each can be stopped between two steps.
"""

import functools
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import structlog
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from engineshed.agent.engines.torch.generation import Activity, Generation, Reply
from engineshed.agent.engines.torch.sampling import Noted, Processors, processors_for

log = structlog.get_logger()


class SequentialDecoder:
    """Works on up to `max_concurrent` requests in turns; others wait for one to end."""

    def __init__(
        self,
        model: PreTrainedModel,
        max_concurrent: int,
        processors: Processors = processors_for,
    ) -> None:
        self._model = model
        self._processors = processors
        self._max_concurrent = max_concurrent
        self._turns = _take_turns_at(model)
        self._threads = ThreadPoolExecutor(max_concurrent, thread_name_prefix="decode")
        self._running: dict[str, _StepByStep] = {}

    def submit(self, generation: Generation, reply: Reply) -> None:
        """Start on a request as soon as a thread is free."""
        steps = _StepByStep(generation, reply)
        self._running[generation.request_id] = steps
        self._threads.submit(self._run, generation, reply, steps)

    def cancel(self, request_id: str) -> None:
        """End a request after the step it is in."""
        if steps := self._running.get(request_id):
            steps.stopped.set()

    def close(self) -> None:
        """End all requests after the step they are in."""
        for steps in list(self._running.values()):
            steps.stopped.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    @property
    def broken(self) -> bool:
        """Never: each request has a loop of its own to break."""
        return False

    @property
    def activity(self) -> Activity:
        """What it is doing; its requests each keep their own keys and values."""
        running = len(self._running)
        scheduled = min(running, self._max_concurrent)
        return Activity(scheduled, running - scheduled, self._turns.taken)

    def _run(self, generation: Generation, reply: Reply, steps: "_StepByStep") -> None:
        try:
            if not steps.stopped.is_set():
                self._generate(generation, steps)
            reply.finish()
        except Exception as error:  # whatever it is, it is this request's alone
            log.exception("generation_failed", request_id=generation.request_id)
            reply.fail(f"{type(error).__name__}: {error}")
        finally:
            del self._running[generation.request_id]

    @torch.inference_mode()
    def _generate(self, generation: Generation, steps: "_StepByStep") -> None:
        device = self._model.device
        prompt = torch.tensor([list(generation.prompt)], device=device)
        processors = self._processors(generation, device)
        if steps.noted:
            processors = LogitsProcessorList([steps.noted, *processors])
        self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=generation.max_new_tokens,
            eos_token_id=sorted(generation.end_ids) or None,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([steps]),
        )


class _StepByStep(StoppingCriteria):  # type: ignore[misc]  # transformers has no types for mypy
    """Hands on each token as it comes, and says when to stop."""

    def __init__(self, generation: Generation, reply: Reply) -> None:
        self.stopped = threading.Event()
        self.noted = Noted() if generation.log_probabilities else None
        self._generation = generation
        self._reply = reply
        self._answer: list[int] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401, ARG002 - transformers' signature
        token = int(input_ids[0, -1])
        if not self.stopped.is_set():
            self._answer.append(token)
            self._reply.token(token, self.noted and self.noted.log_probability(token))
        done = self.stopped.is_set() or self._generation.ends_with_stop_word(self._answer)
        return torch.full((1,), done, device=input_ids.device, dtype=torch.bool)


def _take_turns_at(model: PreTrainedModel) -> "_Turns":
    """Let one thread at a time, first come first served, run the model's forward pass.

    Some models keep state in their modules during a pass, and two passes at once would compete for
    the same cores anyway.
    """
    turns = _Turns()
    forward = model.forward

    @functools.wraps(forward)  # generate() looks at the signature
    def forward_in_turn(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any model's signature
        with turns.turn():
            return forward(*args, **kwargs)

    model.forward = forward_in_turn
    return turns


class _Turns:
    """A lock that is passed on in the order of asking, which threading.Lock does not promise."""

    def __init__(self) -> None:
        self.taken = 0
        """How many turns there were."""
        self._guard = threading.Lock()
        self._busy = False
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._guard:
            mine = threading.Event() if self._busy else None
            if mine:
                self._waiting.append(mine)
            self._busy = True
        if mine:
            mine.wait()
        self.taken += 1
        try:
            yield
        finally:
            with self._guard:
                if self._waiting:
                    self._waiting.popleft().set()
                else:
                    self._busy = False
