"""Small checkpoints for tests, written by hand."""

import json
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 512,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
}


def write_model(directory: Path, **changes: bytes | None) -> Path:
    """Write a checkpoint whose files have other contents: None for none, "__" in names for "."."""
    directory.mkdir(parents=True)
    files: dict[str, bytes | None] = {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b'{"model": {}}',
        "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
        "model.safetensors": safetensors({"a": [4, 4], "b": [8]}),
        "README.md": b"---\nbase_model: acme/base\n---\n",
        "modeling.py": b"raise SystemExit",
    }
    files |= {name.replace("__", "."): content for name, content in changes.items()}
    for name, content in files.items():
        if content is not None:
            (directory / name).write_bytes(content)
    return directory


def safetensors(tensors: dict[str, list[int]]) -> bytes:
    """Return a file of float32 tensors of these shapes."""
    header, size = _header(tensors)
    return header + bytes(range(256)) * (size // 256) + bytes(range(size % 256))


def write_sparse(path: Path, size: int) -> None:
    """Write a file of weights of about `size` bytes that takes no room."""
    header, data = _header({"big": [size // 4]})
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + data)


def _header(tensors: dict[str, list[int]]) -> tuple[bytes, int]:
    entries: dict[str, object] = {}
    end = 0
    for name, shape in tensors.items():
        begin, end = end, end + 4
        for dimension in shape:
            end = begin + (end - begin) * dimension
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text, end
