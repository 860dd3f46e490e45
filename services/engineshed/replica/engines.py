"""Which engine stands behind the front."""

from engineshed.replica.engine import Engine
from engineshed.replica.failure import ReplicaFailedError
from engineshed.replica.llmapi import TextEngine, TextLayout
from engineshed.replica.tensors import UnfitModelError
from engineshed.replica.tokenizer import Tokenizer
from engineshed.replica.tokens import Layout, TokenEngine
from engineshed.triton.control import ModelTensors
from engineshed.triton.engine import EngineManifest


def connect(
    grpc_port: int, tensors: ModelTensors, manifest: EngineManifest, tokenizer: Tokenizer
) -> Engine:
    """Return the engine that `manifest` tells of, in the Triton at a port of this host.

    Raises:
        ReplicaFailedError: Triton's model has other tensors than such an engine.

    """
    try:
        if manifest.interface == "text":
            return TextEngine(grpc_port, TextLayout(tensors), tokenizer.count)
        layout = Layout(tensors, manifest.eos_token_ids, knows_its_ends=manifest.backend == "torch")
    except UnfitModelError as error:
        raise ReplicaFailedError(
            "MODEL_UNFIT", f"this release cannot serve Triton's model: {error}", retryable=False
        ) from error
    return TokenEngine(grpc_port, layout, manifest, tokenizer.decoding, tokenizer.spell)
