"""Judging a directory in Hugging Face layout by its names and its small files. Pure.

Only what certainly cannot be served is refused here; whether an engine knows the architecture is
the engine's to say.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from engineshed.catalog.domain.errors import CheckpointInvalidError
from engineshed.catalog.domain.manifest import FILE_NAME as MANIFEST

CONFIG: Final = "config.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
TOKENIZER: Final = "tokenizer.json"
README: Final = "README.md"
CHAT_TEMPLATES: Final = "additional_chat_templates"  # a folder of named ones

# JSON that whoever loads the model reads, so it must be JSON.
READ_BY_ENGINES: Final = frozenset(
    {
        "added_tokens.json",
        "chat_template.json",
        "generation_config.json",
        "special_tokens_map.json",
        TOKENIZER_CONFIG,
        "vocab.json",
    }
)

_WEIGHTS: Final = "model.safetensors"
_INDEX_SUFFIX: Final = ".safetensors.index.json"
_INDEX: Final = f"model{_INDEX_SUFFIX}"
_ADAPTER: Final = "adapter_config.json"
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")

_COPIED_SUFFIXES: Final = (".json", ".model", ".txt", ".jinja", ".tiktoken")
_COPIED_PREFIXES: Final = ("LICENSE", "LICENCE", "README", "NOTICE")
# The index of weights that are not copied, and the name that the platform's own manifest takes.
_LEFT_OUT_SUFFIXES: Final = (_INDEX_SUFFIX, ".bin.index.json")
_LEFT_OUT: Final = frozenset({MANIFEST})

_VOCABULARIES: Final = frozenset(
    {
        TOKENIZER,
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "sentencepiece.model",
        "spm.model",
        "spm_char.model",
        "vocab.txt",
        "tekken.json",
        "byte_maps.json",
    }
)
# Tokenizers of bytes or characters need no vocabulary.
_WITHOUT_VOCABULARY: Final = frozenset({"ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer"})

# What these classes compute is not the next token.
_OTHER_TASKS: Final = re.compile(
    r"For(MaskedLM|SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice"
    r"|NextSentencePrediction|ImageClassification|AudioClassification|CTC)$"
)
_CONTEXT_KEYS: Final = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
)
_UINT32_MAX: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What config.json says, as far as the catalog wants to know."""

    architecture: str
    max_position_embeddings: int  # 0: it states none
    weights: str  # the file that it names instead of model.safetensors; "": it names none


def read_config(text: bytes) -> ModelConfig:
    """Return what config.json says.

    Raises:
        CheckpointInvalidError: no engine could tell from it which model to make.

    """
    config = read_object(CONFIG, text)
    architectures = config.get("architectures")
    if not (
        isinstance(architectures, list)
        and architectures
        and all(isinstance(name, str) and name.isidentifier() for name in architectures)
    ):
        raise _invalid(
            CONFIG, 'it names no architectures, e.g. "architectures": ["LlamaForCausalLM"]'
        )
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        raise _invalid(CONFIG, 'it names no model_type, e.g. "model_type": "llama"')
    if all(_OTHER_TASKS.search(name) for name in architectures):
        raise _invalid(
            CONFIG,
            f"{', '.join(architectures)} generates no text; a causal language model is needed",
        )
    weights = config.get("transformers_weights")
    return ModelConfig(
        architecture=architectures[0][:200],
        max_position_embeddings=_longest_context(config),
        weights=weights if isinstance(weights, str) and weights.isprintable() else "",
    )


def read_object(path: str, text: bytes) -> Mapping[str, Any]:
    """Return the JSON object in a file.

    Raises:
        CheckpointInvalidError: it holds something else, or is cut off.

    """
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(path, f"it is not valid JSON ({error}); copy it again") from error
    if not isinstance(parsed, dict):
        raise _invalid(path, "it is not a JSON object")
    return parsed


def choose_weights(names: Collection[str], config: ModelConfig) -> str:
    """Return the file of weights that an engine would load, or the index that names several.

    Raises:
        CheckpointInvalidError: there is none.

    """
    if _ADAPTER in names:
        raise _invalid(
            _ADAPTER,
            "this is an adapter, not a whole model; merge it into its base model "
            "(PEFT: model.merge_and_unload().save_pretrained(…)) and register the result",
        )
    if config.weights:
        if config.weights in names and config.weights.endswith((".safetensors", _INDEX_SUFFIX)):
            return config.weights
        raise _invalid(
            config.weights, f"{CONFIG} names it as the weights; no such safetensors file is here"
        )
    for name in (_WEIGHTS, _INDEX):
        if name in names:
            return name
    if any(name.endswith(".safetensors") for name in names):
        raise _invalid(
            _WEIGHTS, f"neither it nor {_INDEX} is here, so nobody can tell what belongs together"
        )
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if pickles:
        raise _invalid(
            pickles[0],
            "weights in this form can run code when they are read, so they are refused; where you "
            "trust them, convert them with transformers: AutoModelForCausalLM"
            ".from_pretrained(directory).save_pretrained(new_directory)",
        )
    raise _invalid(_WEIGHTS, "it is missing: no *.safetensors file is in the directory")


def is_index(path: str) -> bool:
    """Tell whether a name is that of an index of several files of weights."""
    return path.endswith(_INDEX_SUFFIX)


def side_files(names: Collection[str]) -> list[str]:
    """Return what is copied beside the weights: what is needed to serve, and what explains it.

    Code is never copied: it is never run.
    """
    return sorted(
        name
        for name in names
        if not name.startswith(".")
        and name not in _LEFT_OUT
        and not name.endswith(_LEFT_OUT_SUFFIXES)
        and (name.endswith(_COPIED_SUFFIXES) or name.startswith(_COPIED_PREFIXES))
        and not name.endswith(".py")
    )


def require_tokenizer(names: Collection[str], tokenizer_config: Mapping[str, Any]) -> None:
    """Raise CheckpointInvalidError unless there is something to make a tokenizer of."""
    if not _VOCABULARIES.isdisjoint(names) or any(name.endswith(".tiktoken") for name in names):
        return
    if "vocab.json" in names:
        if "merges.txt" in names:
            return
        raise _invalid("merges.txt", "it is missing; vocab.json is of no use without it")
    if str(tokenizer_config.get("tokenizer_class")).removesuffix("Fast") in _WITHOUT_VOCABULARY:
        return
    raise _invalid(
        TOKENIZER,
        "there is no tokenizer; save it beside the weights with tokenizer.save_pretrained(…) "
        "(tokenizer.json, tokenizer.model, vocab.json with merges.txt, … would do)",
    )


def has_chat_template(names: Collection[str], tokenizer_config: Mapping[str, Any]) -> bool:
    """Tell whether the tokenizer brings a chat template."""
    return bool(
        tokenizer_config.get("chat_template")
        or "chat_template.jinja" in names
        or "chat_template.json" in names
        or any(name.startswith(f"{CHAT_TEMPLATES}/") for name in names)
    )


def base_model(readme: str) -> str:
    """Return the base model that the header of a model card names, or ""."""
    header = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", readme, re.DOTALL)
    if header is None:
        return ""
    named = re.search(
        r"^base_model:[ \t]*(?:\n[ \t]*-[ \t]*)?['\"]?([\w./-]+)", header[1], re.MULTILINE
    )
    return named[1][:200] if named else ""


def _longest_context(config: Mapping[str, Any]) -> int:
    """Return the longest context that a config or the one for text within it states, or 0."""
    inner = [config.get(key) for key in ("text_config", "llm_config", "language_config")]
    for part in (config, *inner):
        if not isinstance(part, dict):
            continue
        for key in _CONTEXT_KEYS:
            stated = part.get(key)
            if type(stated) is int and 0 < stated <= _UINT32_MAX:
                return stated
    return 0


def _invalid(path: str, what: str) -> CheckpointInvalidError:
    return CheckpointInvalidError.of(f"{path}: {what}", file=path)
