from pathlib import Path
from typing import Any

import pytest

from engineshed.replica.tokenizer import (
    ChatTemplateError,
    NoChatTemplateError,
    Tokenizer,
    TokenizerLoadError,
)

TEMPLATE = "{% for message in messages %}{{ message.role }}:{{ message.content }}\n{% endfor %}"
DEVELOPER = [{"role": "developer", "content": "Be kind."}]


def tokenizer(pretrained: Any, template: str | None = TEMPLATE) -> Tokenizer:
    pretrained.chat_template = template
    return Tokenizer(pretrained, len(pretrained))


async def test_a_prompt_is_what_the_checkpoints_tokenizer_makes_of_it(pretrained: Any) -> None:
    it = tokenizer(pretrained)
    for text in ("the ab.", "", "ab " * 3000):  # the last one goes to a thread
        assert await it.encode_text(text) == list(pretrained(text)["input_ids"])


async def test_messages_become_what_the_template_makes_of_them(byte_level_tokenizer: Any) -> None:
    it = tokenizer(byte_level_tokenizer)
    messages = [{"role": "user", "content": text} for text in ("Hi", "x" * 5000)]

    ids = await it.encode_chat(messages)

    assert byte_level_tokenizer.decode(ids) == f"user:Hi\nuser:{'x' * 5000}\n"


async def test_a_developer_is_the_system_unless_the_template_knows_better(
    byte_level_tokenizer: Any,
) -> None:
    plain = await tokenizer(byte_level_tokenizer).encode_chat(DEVELOPER)
    assert byte_level_tokenizer.decode(plain) == "system:Be kind.\n"

    knowing = TEMPLATE + "{# developer #}"
    known = await tokenizer(byte_level_tokenizer, knowing).encode_chat(DEVELOPER)
    assert byte_level_tokenizer.decode(known) == "developer:Be kind.\n"


async def test_without_a_template_there_is_no_chat(byte_level_tokenizer: Any) -> None:
    with pytest.raises(NoChatTemplateError):
        await tokenizer(byte_level_tokenizer, None).encode_chat(DEVELOPER)


@pytest.mark.parametrize("template", ["{{ raise_exception('no!') }}", "{{ messages.x.y }}", "{%"])
async def test_a_template_that_fails_refuses_the_messages(
    byte_level_tokenizer: Any, template: str
) -> None:
    with pytest.raises(ChatTemplateError):
        await tokenizer(byte_level_tokenizer, template).encode_chat(DEVELOPER)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerLoadError):
        Tokenizer.load(tmp_path, vocab_size=10)
