"""The checkpoint's tokenizer and chat template, as transformers loads them.

Tokenizing a long prompt takes long, and tokenizers are not made for threads: short prompts are
done at once, long ones in a thread with a copy of their own.
"""

import asyncio
import copy
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from engineshed.replica.domain.detokenizer import Decoding
from engineshed.replica.spelling import spell_of

T = TypeVar("T")
Message: TypeAlias = Mapping[str, str]
# transformers' tokenizers, whose interface is not typed.
_Pretrained: TypeAlias = Any

_SHORT: Final = 4096
"""Characters that are tokenized in about 2 ms."""
_FRAME: Final = 32
"""Characters that a chat template puts around a message, about."""
_LONG: Final = 16
"""Characters per token that hardly any text has: what is longer than that, is read in part."""
_BYTE_TOKEN: Final = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class TokenizerLoadError(Exception):
    """The checkpoint's tokenizer cannot be loaded."""


class NoChatTemplateError(Exception):
    """The checkpoint brings no chat template, so messages cannot become a prompt."""


class ChatTemplateError(Exception):
    """The chat template refuses the messages, or fails on them."""


class PromptTooLongError(Exception):
    """The prompt has so many tokens, or more: it was not read to its end."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens


class Prompt(NamedTuple):
    """What an engine is to continue."""

    ids: Sequence[int]
    text: str
    """"" where it came as ids."""


class Tokenizer:
    """Prompts to ids; `decoding` is the way back, and `spell` that of a single token."""

    def __init__(
        self, pretrained: _Pretrained, vocab_size: int, max_tokens: int, *, for_text: bool = False
    ) -> None:
        """Wrap what transformers loaded.

        Args:
            pretrained: the tokenizer.
            vocab_size: the ids of the model are below it.
            max_tokens: the length above which prompts may be refused without reading them.
            for_text: whether the engine takes text and tokenizes again, with the special tokens
                that belong around it: what of those a chat template has written is left out then.

        """
        self._pretrained = pretrained
        self._added_later = _special_beginning(pretrained) if for_text else ""
        self._for_text = for_text
        self._copy = copy.deepcopy(pretrained)
        self._max_tokens = max_tokens
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self.decoding = decoding_of(pretrained, vocab_size)
        self.spell = spell_of(pretrained, self.decoding)
        template = pretrained.chat_template
        self._knows_developer = "developer" in str(template)
        self.has_chat_template = bool(template)

    @classmethod
    def load(
        cls, folder: Path, vocab_size: int, max_tokens: int, *, for_text: bool = False
    ) -> "Tokenizer":
        """Load the tokenizer from a folder; blocks for seconds.

        Raises:
            TokenizerLoadError: it is not there, damaged, or needs code of its own.

        """
        from transformers import AutoTokenizer  # takes a second: not at import

        try:
            return cls(
                AutoTokenizer.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                ),
                vocab_size,
                max_tokens,
                for_text=for_text,
            )
        except Exception as error:  # transformers raises whatever its parsers do
            raise TokenizerLoadError(f"the tokenizer cannot be loaded: {error}") from error

    async def encode_chat(self, messages: Sequence[Message]) -> Prompt:
        """Return the prompt that the chat template makes of `messages`.

        Raises:
            NoChatTemplateError: there is no template.
            ChatTemplateError: the template raised; the message is its own.
            PromptTooLongError: it is far longer than `max_tokens`.

        """
        if not self.has_chat_template:
            raise NoChatTemplateError
        messages = [self._with_known_role(message) for message in messages]

        def work(tokenizer: _Pretrained) -> Prompt:
            text = _render(tokenizer, messages).removeprefix(self._added_later)
            return Prompt(self._ids(tokenizer, text, add_special_tokens=self._for_text), text)

        size = sum(_FRAME + len(message["content"]) for message in messages)
        return await self._run(size, work)

    async def encode_texts(self, texts: Sequence[str]) -> list[Prompt]:
        """Return the prompts for plain texts, with the special tokens that belong around them.

        Raises:
            PromptTooLongError: one of them is far longer than `max_tokens`.

        """

        def work(tokenizer: _Pretrained) -> list[Prompt]:
            return [
                Prompt(self._ids(tokenizer, text, add_special_tokens=True), text) for text in texts
            ]

        return await self._run(sum(map(len, texts)), work)

    def count(self, text: str) -> int:
        """Return how many tokens a text has, as the continuation of another."""
        return len(self._pretrained(text, add_special_tokens=False)["input_ids"])

    async def _run(self, size: int, work: Callable[[_Pretrained], T]) -> T:
        if size <= _SHORT:
            return work(self._pretrained)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, self._copy)

    def _ids(self, tokenizer: _Pretrained, text: str, *, add_special_tokens: bool) -> list[int]:
        beginning = text[: _LONG * self._max_tokens]
        ids: list[int] = tokenizer(beginning, add_special_tokens=add_special_tokens)["input_ids"]
        if len(beginning) < len(text):
            if len(ids) > self._max_tokens:
                raise PromptTooLongError(len(ids))
            ids = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        return ids

    def _with_known_role(self, message: Message) -> Message:
        """Call a developer "system", as most templates know it."""
        if message["role"] != "developer" or self._knows_developer:
            return message
        return {**message, "role": "system"}


def decoding_of(pretrained: _Pretrained, vocab_size: int) -> Decoding:
    """Return how `pretrained` decodes ids below `vocab_size`, special tokens left out."""
    vocab: dict[str, int] = pretrained.get_vocab()
    added = pretrained.added_tokens_decoder.items()
    silent = {token for token, text in added if text.special}
    if pretrained.is_fast:  # ids that mean nothing (a model's vocabulary is often padded)
        silent |= set(range(vocab_size)).difference(vocab.values())
    else:
        silent |= set(pretrained.all_special_ids)

    return Decoding(
        _decode_of(pretrained),
        silent=frozenset(silent),
        bytes_=frozenset(token for text, token in vocab.items() if _BYTE_TOKEN.fullmatch(text)),
        clean_up=pretrained.clean_up_tokenization if _cleans_up(pretrained) else None,
        revises=not pretrained.is_fast,  # it joins tokens in Python, in whatever way
    )


def _decode_of(pretrained: _Pretrained) -> Callable[[list[int]], str]:
    from transformers import PreTrainedTokenizerFast

    own = type(pretrained)
    if all(
        getattr(own, name) is getattr(PreTrainedTokenizerFast, name, None)
        for name in ("decode", "_decode")
    ):
        # All that lies between is the tidying up. It takes most of the time: this is per token.
        return functools.partial(pretrained.backend_tokenizer.decode, skip_special_tokens=True)
    return functools.partial(
        pretrained.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def _cleans_up(pretrained: _Pretrained) -> bool:
    """Tell whether its `decode` removes spaces before punctuation; not for BPE, even if told to."""
    if not pretrained.clean_up_tokenization_spaces:
        return False
    if not pretrained.is_fast or type(pretrained.backend_tokenizer.model).__name__ != "BPE":
        return True
    return bool(pretrained.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output)


def _special_beginning(pretrained: _Pretrained) -> str:
    """Return the special tokens that it puts before every text, as text."""
    ids: list[int] = pretrained("a")["input_ids"]
    known = set(pretrained.all_special_ids)
    added = itertools.takewhile(known.__contains__, ids)
    return "".join(pretrained.convert_ids_to_tokens(list(added)))


def _render(tokenizer: _Pretrained, messages: Sequence[Message]) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template is a program: it fails in any way
        raise ChatTemplateError(str(error)) from error
    return text
