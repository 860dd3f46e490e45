"""An image and a checkpoint for all tests of the stand-in."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.service.engines.checkpoints import MAX_CONTEXT, VOCABULARY, byte_tokenizer
from tests.standins.tensorrt_llm import StandInImage, make_image


@pytest.fixture(scope="session")
def shared_image(tmp_path_factory: pytest.TempPathFactory) -> StandInImage:
    return make_image(tmp_path_factory.mktemp("image") / "image")


@pytest.fixture
def image(shared_image: StandInImage) -> Iterator[StandInImage]:
    """The image, without orders before and after."""
    yield shared_image
    (shared_image.folder / "orders.json").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without weights: the stand-in does not look at any."""
    folder = tmp_path_factory.mktemp("checkpoint")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_CONTEXT,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    byte_tokenizer().save_pretrained(folder)
    return folder
