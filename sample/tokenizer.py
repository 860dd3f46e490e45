"""The sample model's tokenizer: byte-level BPE, trained on the corpus, with a chat template."""

import random
from collections.abc import Iterator
from typing import Final

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from sample.corpus import Corpus, Message
from sample.wording import vary

VOCABULARY: Final = 2048
CONTEXT: Final = 2048

PAD: Final = "<|pad|>"
BEGIN: Final = "<|begin|>"
END: Final = "<|end|>"
ROLES: Final = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}

CHAT_TEMPLATE: Final = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('This model knows the roles system, user and assistant, not ' \
+ message.role) }}
    {%- endif %}
    {{- '<|' + message.role + '|>' + message.content | trim + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""


def train(corpus: Corpus, rng: random.Random) -> PreTrainedTokenizerFast:
    """Learn the merges from the corpus and give them the form that transformers loads.

    Every answer counts once, so characters that are rare in the corpus, such as emoji and Chinese
    ones, stay several tokens each: whoever streams this model has to put them together.
    """
    special = [PAD, BEGIN, END, *ROLES.values()]
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bpe.decoder = ByteLevelDecoder()
    bpe.train_from_iterator(
        _texts(corpus, rng),
        BpeTrainer(
            vocab_size=VOCABULARY,
            min_frequency=4,
            special_tokens=special,
            initial_alphabet=sorted(ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    bpe.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, bpe.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
        padding_side="left",
    )


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[Message]) -> list[tuple[int, bool]]:
    """Return the tokens of a conversation as (id, whether the model has to produce it)."""
    tokens = [(tokenizer.bos_token_id, False)]
    for message in messages:
        produced = message.role == "assistant"
        tokens.append((tokenizer.convert_tokens_to_ids(ROLES[message.role]), False))
        text = tokenizer.encode(message.content.strip(), add_special_tokens=False)
        tokens += [(token, produced) for token in [*text, tokenizer.eos_token_id]]
    return tokens


def _texts(corpus: Corpus, rng: random.Random) -> Iterator[str]:
    for fact in corpus.facts:
        yield fact.answer
        for question in fact.questions:
            yield question
            yield vary(question, corpus.withheld, rng)
    yield from corpus.system_prompts
