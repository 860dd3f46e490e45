"""A stand-in for PyTorch, named so: what `doctor` asks it, answered at once.

Importing the real one takes many seconds on a busy machine. STAND_IN_TORCH_DEVICES says how many
GPUs it computes on.
"""

import os

__version__ = "0.0.0+stand-in"


class version:  # noqa: N801 - PyTorch's name
    cuda = "13.0"


class cuda:  # noqa: N801 - PyTorch's name
    @staticmethod
    def is_available() -> bool:
        return cuda.device_count() > 0

    @staticmethod
    def device_count() -> int:
        return int(os.environ.get("STAND_IN_TORCH_DEVICES", "0"))
