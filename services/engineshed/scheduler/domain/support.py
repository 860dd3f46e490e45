"""Whether a compiled engine can serve a model so on GPUs of that generation."""

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.errors import InvalidFieldError
from engineshed.fit import capability_of, unsupported
from engineshed.scheduler.domain.backends import TENSORRT_LLM, fitting
from engineshed.scheduler.domain.memory import Hardware
from engineshed.scheduler.domain.replica import Serving


def require_supported(checkpoint: Checkpoint, serving: Serving, hardware: Hardware) -> None:
    """Refuse what certainly no engine is built for; types of GPUs that are unknown pass.

    Raises:
        InvalidFieldError: it says what would go.

    """
    if fitting(serving) & hardware.backends != {TENSORRT_LLM}:
        return  # another back end may serve it
    reason = unsupported(
        capability_of(hardware.gpu_type),
        serving.quantization,
        checkpoint.architecture,
        gpu=hardware.gpu_type,
    )
    if reason:
        field = "serving.quantization" if serving.quantization else "gpu_type"
        raise InvalidFieldError.of(field, reason)
