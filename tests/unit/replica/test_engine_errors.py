import pytest

from engineshed.replica.engine import (
    EngineError,
    EngineRefusedError,
    EngineUnavailableError,
    explain,
)
from engineshed.triton.infer import InferenceError
from engineshed.triton.refusal import Refusal

INTERNAL = Refusal.INTERNAL
LONG = "Prompt length (300) exceeds maximum input length (255). Set log level to info"
GUIDE = "Invalid guided_decoding_guide: Failed to parse the JSON schema"


@pytest.mark.parametrize(
    ("refusal", "text", "kind", "param"),
    [
        (INTERNAL, "CUDA error: an illegal memory access", EngineError, None),
        (INTERNAL, "Exceeds maximum queue size", EngineUnavailableError, None),
        (INTERNAL, LONG, EngineRefusedError, None),
        (INTERNAL, GUIDE, EngineRefusedError, "response_format"),
        (Refusal.INVALID_ARGUMENT, GUIDE, EngineRefusedError, "response_format"),
        (Refusal.INVALID_ARGUMENT, "temperature -1", EngineRefusedError, None),
        (Refusal.UNAVAILABLE, "the engine is full", EngineUnavailableError, None),
    ],
)
def test_what_an_error_of_the_engine_means_for_the_caller(
    refusal: Refusal, text: str, kind: type[EngineError], param: str | None
) -> None:
    error = explain(InferenceError(refusal, text))

    assert type(error) is kind
    assert str(error) == text
    assert getattr(error, "param", None) == param
