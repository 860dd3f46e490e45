"""The `torch` back end: anything transformers can load, on anything PyTorch runs on.

In the agent:            backend (the interface).
In the build's process:  build, loading, selfcheck.
In Triton's stub:        runtime (the model), serving, delivery, gauges; the decoders continuous
                         and sequential; requests, sampling, guiding.

The agent imports nothing of the latter two.

A build fails for good with one of these codes: NO_CONFIG, BAD_CONFIG, UNKNOWN_ARCHITECTURE,
NOT_A_CAUSAL_LM, NO_TOKENIZER, MISSING_WEIGHTS, TRUNCATED_WEIGHTS, BAD_WEIGHTS, PICKLE_WEIGHTS,
ADAPTER_ONLY, CHECKPOINT_CHANGED, LOAD_FAILED, MODEL_BROKEN, MAX_CONTEXT_TOO_LARGE,
MAX_CONTEXT_TOO_SMALL, UNSUPPORTED_PRECISION, UNSUPPORTED_QUANTIZATION, UNSUPPORTED_GPU_COUNT,
UNSUPPORTED_BATCH_TOKENS.
It may succeed elsewhere or later after: OUT_OF_MEMORY, DISK_FULL, BUILD_KILLED, BUILD_TIMEOUT,
BUILD_FAILED.
"""
