"""A stand-in for TensorRT-LLM's package: the names that a probe looks at."""

from importlib.metadata import version

__version__ = version("tensorrt_llm")
