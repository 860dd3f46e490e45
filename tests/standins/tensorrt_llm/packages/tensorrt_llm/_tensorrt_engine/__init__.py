"""The TensorRT `LLM`: that it is there is what is looked at."""
