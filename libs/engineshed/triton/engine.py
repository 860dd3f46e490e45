"""engine.json: what whoever serves an engine must know about it.

The agent writes the file beside the engine that it built; the replica reads its limits, its end
tokens and its digest from there, without asking anyone.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

FILE_NAME: Final = "engine.json"
MODEL_NAME: Final = "tensorrt_llm"
"""The name under which every engine is loaded in Triton, as in NVIDIA's back end."""

Decoding = Literal["continuous", "sequential", "exclusive"]
Interface = Literal["tokens", "text"]


class EngineManifestError(ValueError):
    """The folder holds no engine.json, or one that cannot be read as such."""


@dataclass(frozen=True, slots=True)
class EngineFile:
    """One file of an engine."""

    size: int
    """In bytes."""
    sha256: str
    """Of its content, 64 hex digits."""


@dataclass(frozen=True, slots=True)
class EngineManifest:
    """What an engine is, what it was built from, and what it can do."""

    backend: str
    """The engine back end that built it: `torch`, `tensorrt_llm`."""
    engine_kind: str
    """What runs it: `pytorch` or `tensorrt`."""
    checkpoint_digest: str
    """The digest of the checkpoint that it was built from, `sha256:…`."""
    architecture: str
    """The model class, as the checkpoint's config.json names it."""
    parameter_count: int
    dtype: str
    """Of weights and computation: `float32`, `bfloat16`, `float16`."""
    quantization: str | None
    vocab_size: int
    """Token ids that it takes are below this."""
    max_context: int
    """The most tokens of prompt and answer together."""
    max_concurrent: int
    """The most requests it works on at once; those beyond are turned away."""
    eos_token_ids: tuple[int, ...]
    """The tokens that end an answer; empty when the checkpoint names none."""
    hardware: str
    """What it was built for and runs on: a GPU's product name, or `cpu`."""
    decoding: Decoding
    """`continuous`: requests share each step. `sequential`: each has its own, taking turns.
    `exclusive`: one request after the other."""
    attention: str
    """How attention is computed, e.g. `sdpa`, `flash_attention_2`."""
    tokenizer: str
    """The folder with tokenizer and chat template, relative to the engine's; "" where none is."""
    interface: Interface = "tokens"
    """What Triton's model takes and gives: token ids, with the tensors of NVIDIA's tensorrtllm back
    end, or text, with those of its LLM API."""
    world_size: int = 1
    """The processes that serve it together, one for each GPU."""
    kv_token_bytes: int = 0
    """What keys and values of one token take of each GPU; 0: unknown."""
    max_batch_tokens: int = 0
    """The most tokens that one step takes; 0: as its back end likes."""
    guided_decoding: bool = False
    """Whether answers can be held to a JSON schema."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of all that took part in the build and could change the result."""
    files: dict[str, EngineFile] = field(default_factory=dict)
    """Every file of the engine but engine.json, by its path relative to the engine's folder."""
    digest: str = ""
    """`sha256:…` over all of the above: the identity of the engine."""

    def sealed(self, files: dict[str, EngineFile]) -> "EngineManifest":
        """Return the manifest with its files and the digest over all of it."""
        unsealed = replace(self, files=dict(sorted(files.items())), digest="")
        return replace(unsealed, digest=_digest(unsealed))

    @property
    def is_whole(self) -> bool:
        """Whether the digest is that of the content."""
        return self.digest == _digest(replace(self, digest=""))

    def write(self, engine: Path) -> None:
        """Write engine.json into the folder `engine`."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        (engine / FILE_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, engine: Path) -> "EngineManifest":
        """Read engine.json from the folder `engine`.

        Raises:
            EngineManifestError: it is not there, or not a manifest.

        """
        path = engine / FILE_NAME
        try:
            return _ADAPTER.validate_json(path.read_bytes())
        except OSError as error:
            raise EngineManifestError(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise EngineManifestError(f"{path} is no engine manifest: {error}") from error


_ADAPTER: Final = TypeAdapter(EngineManifest)


def _digest(manifest: EngineManifest) -> str:
    canonical = json.dumps(asdict(manifest), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
