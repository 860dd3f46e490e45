"""Continuous batching: every step computes a token for all requests in flight.

This is transformers' continuous batching with three things of our own: its cache is sized from the
engine's limits (left alone it takes most of the machine), each request chooses its tokens by its
own processors, and tokens go straight to whoever asked for them.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    OutputRouter,
)
from transformers.generation.continuous_batching.requests import (
    FutureRequestState,
    GenerationOutput,
)
from transformers.generation.continuous_batching.utils import (
    find_head_dim,
    find_num_key_value_heads,
)

from engineshed.agent.engines.torch.generation import Activity, Cache, Generation, Reply
from engineshed.agent.engines.torch.sampling import Noted, Processors, processors_for

_PAGE: Final = 32
"""Tokens per page of the cache: small, so that short answers do not each hold a long one."""
_CPU_CACHE_BYTES: Final = 1 << 30
_CPU_CACHE_TOKENS: Final = 1 << 16
"""The attention mask grows with it: 64 MiB for these in float32."""
_GPU_CACHE_SHARE: Final = 0.8
_CPU_STEP_TOKENS: Final = 256
_GPU_STEP_TOKENS: Final = 1024
_CLOSE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much a decoder takes on at once."""

    max_context: int
    """In tokens, of each request."""
    max_concurrent: int
    """Requests in a step."""
    max_batch_tokens: int | None = None
    """Tokens in a step, `max_concurrent` at least; None: as suits the device."""
    kv_cache_fraction: float | None = None
    """The share of a GPU's memory, of what is free once the model is loaded, that keys and values
    take; None: the usual one. On a CPU their room is limited anyway."""


class ContinuousDecoder:
    """Works on up to `max_concurrent` requests in each step; others wait for one to end."""

    def __init__(
        self,
        model: PreTrainedModel,
        limits: BatchLimits,
        processors: Processors = processors_for,
    ) -> None:
        self._model = model
        self._processors = processors
        self._running: dict[str, _Running] = {}
        self._manager = model.init_continuous_batching(
            copy.deepcopy(model.generation_config),  # it writes into it
            continuous_batching_config=_configuration(model, limits),
        )
        self._own_processors = _OwnProcessors(self._running)
        _choose_by(self._own_processors, self._manager)
        self._manager.output_router = _Router(self._running)
        self._manager.start()

    @property
    def broken(self) -> bool:
        """Whether a step failed as a whole: then all requests failed, and all others would."""
        return self._manager.background_thread_status.fatal_error is not None

    @property
    def activity(self) -> Activity:
        """What it is doing, as its thread left it at some point of the last step."""
        iterations = self._own_processors.steps
        if (processor := self._manager.batch_processor) is None:  # its thread is about to make it
            return Activity(0, len(self._running), iterations)
        scheduled, cache = len(processor.scheduler.active_requests), processor.cache
        blocks: int = cache.num_blocks
        used = blocks - min(blocks, int(cache.compute_free_capacity() * blocks))
        return Activity(
            scheduled=scheduled,
            waiting=max(0, len(self._running) - scheduled),
            iterations=iterations,
            cache=Cache(blocks, used, _PAGE),
        )

    def submit(self, generation: Generation, reply: Reply) -> None:
        """Let a request take part from the next step on."""
        processors = self._processors(generation, self._model.device)
        self._running[generation.request_id] = _Running(generation, reply, processors, self.cancel)
        accepted = self._manager.add_request(
            list(generation.prompt),
            request_id=generation.request_id,
            max_new_tokens=generation.max_new_tokens,
            eos_token_id=list(generation.end_ids),
            streaming=True,
        )
        if accepted is None:
            self._running.pop(generation.request_id, None)
            reply.fail("the decoder stopped after an error in an earlier step")

    def cancel(self, request_id: str) -> None:
        """Take a request out before the next step; its part of the cache is free then."""
        if self._running.pop(request_id, None):
            self._manager.cancel_request(request_id)

    def close(self) -> None:
        """Drop all requests and end the thread."""
        self._running.clear()
        self._manager.stop(block=True, timeout=_CLOSE_SECONDS, hard_stop=True)
        self._manager.destroy()


@dataclass(slots=True)
class _Running:
    """A request in flight."""

    generation: Generation
    reply: Reply
    processors: LogitsProcessorList
    cancel: Callable[[str], None]
    answer: list[int] = field(default_factory=list)
    noted: Noted | None = field(init=False)

    def __post_init__(self) -> None:
        self.noted = Noted() if self.generation.log_probabilities else None

    def scores(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores whose largest is the next token."""
        if self.noted:
            self.noted(input_ids, scores)
        chosen: Tensor = self.processors(input_ids, scores)
        return chosen

    def take(self, output: GenerationOutput) -> bool:
        """Hand on what is new in the output; return whether the answer is complete."""
        for token in output.generated_tokens[len(self.answer) :]:
            self.answer.append(token)
            self.reply.token(token, self.noted and self.noted.log_probability(token))
            if self.generation.ends_with_stop_word(self.answer):
                self.cancel(self.generation.request_id)
                self.reply.finish()
                return True
        if output.error is not None:
            self.reply.fail(output.error)
        elif output.is_finished():
            self.reply.finish()
        return bool(output.is_finished())


class _Router(OutputRouter):  # type: ignore[misc]  # transformers has no types for mypy
    """Takes each output to the request it belongs to, in the decoder's thread."""

    def __init__(self, running: dict[str, _Running]) -> None:
        super().__init__()
        self._running = running

    def deliver(self, output: GenerationOutput) -> None:
        running = self._running.get(output.request_id)
        if running and running.take(output):
            self._running.pop(output.request_id, None)

    def deliver_batch(self, outputs: Iterable[GenerationOutput]) -> None:
        for output in outputs:
            self.deliver(output)


class _OwnProcessors(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]  # transformers has no types for mypy
    """Applies to each request's row of the logits the processors that the request brought.

    The steps are not overlapped (`use_async_batching=False`), so what `prepare_tensor_args` sees is
    what the call that follows is about.
    """

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 - transformers' interface
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, running: dict[str, _Running]) -> None:
        self.steps = 0
        self._running = running
        self._rows: list[FutureRequestState] = []

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> Tensor:
        self._rows = requests_with_new_token
        self.steps += 1
        return torch.zeros(len(requests_with_new_token), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:  # noqa: ARG002 - see above
        for row, future in enumerate(self._rows):
            running = self._running.get(future.state.request_id)
            if running and (running.processors or running.noted):
                tokens = [*future.state.initial_tokens, *future.state.generated_tokens]
                input_ids = torch.tensor([tokens], device=scores.device)
                scores[row] = running.scores(input_ids, scores[row : row + 1])[0]
        return scores


def _choose_by(processor: _OwnProcessors, manager: ContinuousBatchingManager) -> None:
    processors = manager.logit_processor
    processors.logits_processor = LogitsProcessorList([processor])
    processors.tensors_required = 1
    processors.do_processing = True


def _configuration(model: PreTrainedModel, limits: BatchLimits) -> ContinuousBatchingConfig:
    step_tokens = _CPU_STEP_TOKENS if model.device.type == "cpu" else _GPU_STEP_TOKENS
    return ContinuousBatchingConfig(
        page_size=_PAGE,
        # Each request may leave most of its last page empty.
        num_blocks=-(-cache_tokens(model, limits) // _PAGE) + limits.max_concurrent,
        max_batch_tokens=limits.max_batch_tokens or max(step_tokens, limits.max_concurrent),
        max_requests_per_batch=limits.max_concurrent,
        max_memory_percent=1.0,
        max_blocks_per_request=0,
        allow_block_sharing=False,
        use_async_batching=False,
        use_cuda_graph=False,
    )


def cache_tokens(model: PreTrainedModel, limits: BatchLimits) -> int:
    """Return for how many tokens the cache has room: one request at its longest, at least.

    Where there is no room for all at their longest, transformers puts requests off and computes
    their part again later.
    """
    config = model.config.get_text_config()
    heads, size = find_num_key_value_heads(config), find_head_dim(config)
    bytes_per_token: int = 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        room = int(free * (limits.kv_cache_fraction or _GPU_CACHE_SHARE)) // bytes_per_token
    else:
        room = min(_CPU_CACHE_TOKENS, _CPU_CACHE_BYTES // bytes_per_token)
    return max(limits.max_context, min(room, limits.max_context * limits.max_concurrent))
