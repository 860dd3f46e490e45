"""From a request to what the engine is asked for: tokens, lengths, seeds."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from engineshed.replica.domain.answer import Limits
from engineshed.replica.engine import Generation
from engineshed.replica.errors import ApiError, invalid, unsupported
from engineshed.replica.requests import ChatRequest, CompletionRequest, GenerationRequest
from engineshed.replica.tokenizer import (
    ChatTemplateError,
    NoChatTemplateError,
    Prompt,
    PromptTooLongError,
    Tokenizer,
)
from engineshed.triton.engine import EngineManifest


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that one request asks for."""

    generations: tuple[Generation, ...]
    """One for each choice, in the order of the choices."""
    limits: Limits
    prompt_tokens: int
    """Each prompt once, however many answers it gets."""


class Prompts:
    """Makes tasks of requests, within what the engine can do."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        manifest: EngineManifest,
        offers: frozenset[str],
        *,
        takes_ids: bool,
    ) -> None:
        """Prepare.

        Args:
            tokenizer: makes tokens of text.
            manifest: the engine's limits.
            offers: the parameters that the engine honours, see `Engine`.
            takes_ids: whether a prompt may be token ids.

        """
        self._tokenizer = tokenizer
        self._manifest = manifest
        self._offers = offers
        self._takes_ids = takes_ids
        self._end_ids = frozenset(manifest.eos_token_ids)

    async def chat(self, request: ChatRequest) -> Task:
        """Return the task of a chat completion.

        Raises:
            ApiError: 400, it cannot be honoured.

        """
        messages = [
            {"role": message.role, "content": message.text}
            | ({"name": message.name} if message.name is not None else {})
            for message in request.messages
        ]
        try:
            prompt = await self._tokenizer.encode_chat(messages)
        except NoChatTemplateError:
            raise invalid(
                "This checkpoint has no chat template; use /v1/completions.",
                param="messages",
                code="no_chat_template",
            ) from None
        except ChatTemplateError as error:
            raise invalid(
                f"The checkpoint's chat template refuses the messages: {error}",
                param="messages",
                code="chat_template_error",
            ) from error
        except PromptTooLongError as error:
            raise self._alone_too_long("at least " + str(error.tokens), "messages") from None
        return self._task(request, [prompt], param="messages")

    async def completion(self, request: CompletionRequest) -> Task:
        """Return the task of a completion.

        Raises:
            ApiError: 400, it cannot be honoured.

        """
        texts = [prompt for prompt in request.prompts if isinstance(prompt, str)]
        try:
            encoded = iter(await self._tokenizer.encode_texts(texts))
        except PromptTooLongError as error:
            raise self._alone_too_long("at least " + str(error.tokens), "prompt") from None
        if not self._takes_ids and len(texts) < len(request.prompts):
            raise unsupported(
                "prompt", "This endpoint's engine takes prompts as text, not as token ids."
            )
        prompts = [
            next(encoded) if isinstance(prompt, str) else Prompt(prompt, "")
            for prompt in request.prompts
        ]
        return self._task(request, prompts, param="prompt")

    def _task(self, request: GenerationRequest, prompts: Sequence[Prompt], param: str) -> Task:
        self._refuse_what_is_missing(request)
        for prompt in prompts:
            self._check_tokens(prompt.ids, param)
        # The longest prompt decides, so that all choices have the same limit.
        longest = max(len(prompt.ids) for prompt in prompts)
        max_tokens = self._max_tokens(longest, *request.asked_tokens, param=param)
        if request.min_tokens > max_tokens:
            raise invalid(
                f"min_tokens is {request.min_tokens}, but the answer has {max_tokens} tokens at "
                "most.",
                param="min_tokens",
            )
        seeds = _seeds(request, count=len(prompts) * request.n)
        return Task(
            tuple(
                Generation(
                    prompt=prompt.ids,
                    text=prompt.text,
                    max_tokens=max_tokens,
                    temperature=request.temperature,
                    top_p=request.top_p,
                    seed=seed,
                    presence_penalty=request.presence_penalty,
                    frequency_penalty=request.frequency_penalty,
                    min_tokens=request.min_tokens,
                    guide=request.guide,
                    scored=request.scored,
                )
                for prompt, seed in zip(
                    (prompt for prompt in prompts for _ in range(request.n)), seeds, strict=True
                )
            ),
            Limits(max_tokens, self._end_ids, request.stop_words),
            prompt_tokens=sum(len(prompt.ids) for prompt in prompts),
        )

    def _refuse_what_is_missing(self, request: GenerationRequest) -> None:
        for name in request.asks_for():
            if name not in self._offers:
                raise unsupported(
                    name, f"{name} is not supported by this endpoint's engine; leave it out."
                )

    def _check_tokens(self, prompt: Sequence[int], param: str) -> None:
        if not prompt:
            raise invalid(f"{param} has no tokens.", param=param, code="empty_prompt")
        if max(prompt) >= self._manifest.vocab_size:
            raise invalid(
                f"{param} has the token {max(prompt)}; the model has those from 0 to "
                f"{self._manifest.vocab_size - 1}.",
                param=param,
            )

    def _max_tokens(self, length: int, asked_by: str, asked: int | None, *, param: str) -> int:
        context = self._manifest.max_context
        if length >= context:
            raise self._alone_too_long(str(length), param)
        if asked is None:
            return context - length
        if length + asked > context:
            raise _too_long(
                f"This model's maximum context length is {context} tokens, but {length + asked} "
                f"were asked for: {length} in the prompt and {asked} in the answer. Shorten the "
                f"prompt or lower {asked_by} to {context - length}.",
                asked_by,
            )
        return asked

    def _alone_too_long(self, tokens: str, param: str) -> ApiError:
        return _too_long(
            f"This model's maximum context length is {self._manifest.max_context} tokens, prompt "
            f"and answer together, but the prompt alone has {tokens} tokens. Shorten it.",
            param,
        )


def _too_long(message: str, param: str) -> ApiError:
    return invalid(message, param=param, code="context_length_exceeded")


def _seeds(request: GenerationRequest, count: int) -> Sequence[int | None]:
    """Return a seed for each answer: those of one request differ, those of equal ones do not."""
    if request.temperature == 0:
        return [None] * count
    if request.seed is None:
        return [secrets.randbits(63) for _ in range(count)]
    return [request.seed + number for number in range(count)]
