"""A stand-in for TensorRT's package."""

from importlib.metadata import version

__version__ = version("tensorrt")
