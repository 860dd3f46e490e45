"""The engine back ends of this release, in the order in which they are preferred."""

from pathlib import Path

from engineshed.agent.engines.interface import EngineBackend, Hardware
from engineshed.agent.engines.tensorrt_llm.backend import TensorRtLlmBackend
from engineshed.agent.engines.torch.backend import TorchBackend


def known_backends(
    hardware: Hardware,
    *,
    tensorrt_llm_dir: Path,
    calibration_dir: Path | None,
    build_stall_s: float,
    remembered: Path | None = None,
) -> tuple[EngineBackend, ...]:
    """Return all of them; which of them can run on this host, each says itself (`probe`).

    Args:
        hardware: what this host has.
        tensorrt_llm_dir: where TensorRT-LLM's scripts and templates are.
        calibration_dir: the texts that quantization is calibrated with; None: there are none.
        build_stall_s: how many seconds a build may neither log nor compute.
        remembered: where to keep what takes long to find out; None: nowhere.

    """
    return (
        TensorRtLlmBackend(hardware, tensorrt_llm_dir, calibration_dir, build_stall_s, remembered),
        TorchBackend(),
    )
