"""The `tensorrt_llm` back end: engines that are compiled on the GPUs that they are for.

Where the image builds engines and knows the model's class, a checkpoint is converted or quantized,
compiled by trtllm-build, and served by Triton's C++ tensorrtllm back end (`engine_kind: tensorrt`).
Else, where TensorRT-LLM's PyTorch runtime knows it, the image's model around its LLM API serves the
checkpoint itself (`engine_kind: pytorch`).

    backend        the interface
    toolchain      what the image has, and what its own packages and scripts say of themselves
    architectures  which models those packages know
    families       which conversion script is for which architecture
    plan           from a request to everything that the build is told; pure, as are
    arguments      the command lines, and
    watch          whether a child still does something
    build          the steps, one after the other
    child          one step: a program in a session of its own, watched
    marks, peak    how far it is, and the GPUs' memory that it was seen to take
    host           what the host has left, and whether that suffices
    result         what came out, compared with what was asked for
    render         the Triton model

Nothing of TensorRT-LLM is imported here: its own interpreter is asked.

A build fails for good with one of these codes: those of a checkpoint that cannot be read (see the
`torch` back end: NO_CONFIG, MISSING_WEIGHTS, …), UNSUPPORTED_ARCHITECTURE, UNSUPPORTED_PRECISION,
UNSUPPORTED_QUANTIZATION, UNSUPPORTED_GPU_COUNT, UNSUPPORTED_BATCH_TOKENS, ALREADY_QUANTIZED,
MAX_CONTEXT_TOO_LARGE, MAX_CONTEXT_TOO_SMALL, NO_CALIBRATION_DATA, NO_TOKENIZER, UNSUPPORTED_SM,
TOOLCHAIN_MISMATCH, LIMITS_DIFFER, RENDER_BUG.
It may succeed elsewhere or later after: TOOLCHAIN_MISSING, TRT_PATH_REMOVED, DRIVER_TOO_OLD,
NOT_ENOUGH_HOST_MEMORY, DISK_FULL, SHM_TOO_SMALL, BUILD_OOM_HOST, BUILD_OOM_GPU, BUILD_CRASHED,
BUILD_STALLED, BUILD_TIMEOUT, CONVERT_FAILED, BUILD_FAILED, ENGINE_INCOMPLETE.
What loads and serving add to them, and the texts by which all are known:
engineshed.triton.signatures.
"""
