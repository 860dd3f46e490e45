"""A stand-in for NVIDIA's Triton + TensorRT-LLM image: its folders, programs, packages and models.

It converts, builds and serves nothing real. It takes the arguments that the real programs take,
writes the files that they write, serves the tensors that the real back end serves, and fails in
the ways and with the words in which they fail, as a test orders it to.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import layout
from .templates import CURRENT, Template
from .toolchain.orders import STEPS, write_orders
from .toolchain.texts import TEXTS

__all__ = ["H100", "STEPS", "TEXTS", "StandInImage", "Template", "make_image"]

H100: Final[dict[str, Any]] = {
    "name": "NVIDIA H100 80GB HBM3",
    "total": 85520809984,
    "reserved": 0,
    "capability": [9, 0],
}
_NVML: Final = Path(__file__).parents[2] / "service" / "agent" / "stand_in_driver"


@dataclass(frozen=True)
class StandInImage:
    """An image on disk."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def app(self) -> Path:
        return self.folder / "app"

    @property
    def triton(self) -> Path:
        return self.folder / "opt" / "tritonserver"

    @property
    def server(self) -> Path:
        return self.triton / "bin" / "tritonserver"

    def environment(
        self, gpus: Sequence[Mapping[str, Any]] = (H100, H100), *, nvml: bool = True
    ) -> dict[str, str]:
        """Return the variables to start an agent, a replica or a build with, as in the image.

        As there, the agent has an environment of its own: `tensorrt_llm` is found by the image's
        interpreter alone, the first `python3` on PATH. Triton's stub embeds whichever is first on
        the server's PATH, and heeds no PYTHONPATH.

        Args:
            gpus: what the stand-in for NVML finds, each as far as it differs from an H200.
            nvml: whether that stand-in takes the place of the driver's library.

        """
        described = [{"uuid": f"GPU-stand-in-{index}", **gpu} for index, gpu in enumerate(gpus)]
        return {
            "PATH": os.pathsep.join([str(self.bin), os.environ["PATH"]]),
            **({"PYTHONPATH": str(_NVML)} if nvml else {}),
            "ENGINESHED_TRITON_DIR": str(self.triton),
            "ENGINESHED_TENSORRT_LLM_DIR": str(self.app),
            "STAND_IN_GPUS": json.dumps(described),
        }

    def order(self, step: str, **what: Any) -> None:
        """Order a step to do something else than its work; see toolchain/orders.py."""
        assert step in STEPS, f"{step} is none of {STEPS}"
        file = self.folder / "orders.json"
        orders = json.loads(file.read_text()) if file.exists() else {}
        write_orders(self.folder, orders | {step: what})


def make_image(
    folder: Path,
    *,
    version: str = "1.2.1",
    tensorrt_version: str = "10.14.1.48",
    template: Template = CURRENT,
    removed: bool = False,
    examples: str = "app/examples",
) -> StandInImage:
    """Make an image in an empty folder.

    Args:
        folder: where; it need not be there yet.
        version: TensorRT-LLM's.
        tensorrt_version: TensorRT's.
        template: which release's template of the in-flight batcher is in it.
        removed: whether it is one after the removal of the TensorRT engines: version 1.4.0, with
            the LLM API only.
        examples: where the conversion scripts lie, `app/examples` or `app/tensorrt_llm/examples`.

    """
    layout.write_python(folder)
    if removed:
        layout.write_package(
            folder, "tensorrt_llm", "1.4.0", without=("_tensorrt_engine", "models")
        )
    else:
        layout.write_package(folder, "tensorrt_llm", version)
        layout.write_package(folder, "tensorrt", tensorrt_version)
        layout.write_engine_tools(folder, examples)
    layout.write_program(folder, "bin/mpirun", "mpirun.main()")
    layout.write_program(folder, "bin/trtllm-serve", "logs.announce()")  # its interpreter counts
    layout.write_templates(folder, None if removed else template)
    layout.write_triton(folder, engines=not removed)
    return StandInImage(folder)
