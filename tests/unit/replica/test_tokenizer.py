import asyncio
from pathlib import Path
from typing import Any

import pytest

from engineshed.replica.tokenizer import (
    ChatTemplateError,
    NoChatTemplateError,
    PromptTooLongError,
    Tokenizer,
    TokenizerLoadError,
)

TEMPLATE = "{% for message in messages %}{{ message.role }}:{{ message.content }}\n{% endfor %}"
DEVELOPER = [{"role": "developer", "content": "Be kind."}]


def tokenizer(
    pretrained: Any, template: str | None = TEMPLATE, max_tokens: int = 10_000
) -> Tokenizer:
    pretrained.chat_template = template
    return Tokenizer(pretrained, len(pretrained), max_tokens)


async def test_a_prompt_is_what_the_checkpoints_tokenizer_makes_of_it(pretrained: Any) -> None:
    it = tokenizer(pretrained)
    for text in ("the ab.", "", "ab " * 3000):  # the last one goes to a thread
        prompts = await it.encode_texts([text, "a"])
        assert [prompt.ids for prompt in prompts] == pretrained([text, "a"])["input_ids"]
        assert [prompt.text for prompt in prompts] == [text, "a"]


async def test_messages_become_what_the_template_makes_of_them(byte_level_tokenizer: Any) -> None:
    it = tokenizer(byte_level_tokenizer)
    messages = [{"role": "user", "content": text} for text in ("Hi", "x" * 5000)]

    prompt = await it.encode_chat(messages)

    assert prompt.text == f"user:Hi\nuser:{'x' * 5000}\n"
    assert byte_level_tokenizer.decode(prompt.ids) == prompt.text


async def test_many_messages_hold_up_nobody_however_short_they_are(
    byte_level_tokenizer: Any,
) -> None:
    it = tokenizer(byte_level_tokenizer)

    encoding = asyncio.create_task(it.encode_chat([{"role": "user", "content": ""}] * 1000))
    await asyncio.sleep(0)

    assert not encoding.done()
    assert byte_level_tokenizer.decode((await encoding).ids) == "user:\n" * 1000


async def test_a_developer_is_the_system_unless_the_template_knows_better(
    byte_level_tokenizer: Any,
) -> None:
    plain = await tokenizer(byte_level_tokenizer).encode_chat(DEVELOPER)
    assert plain.text == "system:Be kind.\n"

    knowing = TEMPLATE + "{# developer #}"
    known = await tokenizer(byte_level_tokenizer, knowing).encode_chat(DEVELOPER)
    assert known.text == "developer:Be kind.\n"


async def test_without_a_template_there_is_no_chat(byte_level_tokenizer: Any) -> None:
    with pytest.raises(NoChatTemplateError):
        await tokenizer(byte_level_tokenizer, None).encode_chat(DEVELOPER)


@pytest.mark.parametrize("template", ["{{ raise_exception('no!') }}", "{{ messages.x.y }}", "{%"])
async def test_a_template_that_fails_refuses_the_messages(
    byte_level_tokenizer: Any, template: str
) -> None:
    with pytest.raises(ChatTemplateError):
        await tokenizer(byte_level_tokenizer, template).encode_chat(DEVELOPER)


async def test_of_a_prompt_that_is_far_too_long_only_the_beginning_is_read(
    byte_level_tokenizer: Any,
) -> None:
    it = tokenizer(byte_level_tokenizer, max_tokens=10)

    for encode in (
        it.encode_texts(["x" * 1000]),
        it.encode_chat([{"role": "user", "content": "x" * 1000}]),
    ):
        with pytest.raises(PromptTooLongError) as caught:
            await encode
        assert caught.value.tokens == 160


async def test_a_prompt_of_few_tokens_is_read_to_its_end_however_long_it_is(
    wordpiece_tokenizer: Any,
) -> None:
    text = "x" * 400 + " the"  # a word that it does not know is one token

    encoded = await tokenizer(wordpiece_tokenizer, max_tokens=5).encode_texts([text])

    assert encoded[0].ids == wordpiece_tokenizer(text)["input_ids"]
    assert len(encoded[0].ids) == 2


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerLoadError):
        Tokenizer.load(tmp_path, vocab_size=10, max_tokens=10)
