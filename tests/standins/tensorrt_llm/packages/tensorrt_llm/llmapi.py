"""The LLM API, as far as Triton's model around it uses it."""

from stand_in_toolchain.llm import LLM  # type: ignore[import-not-found]  # the image's

__all__ = ["LLM"]
