"""The texts by which NVIDIA's programs and libraries say what went wrong, by a name of ours.

They are facts: the log of a build or a server is searched for them. Numbers in them are examples.
"""

from types import MappingProxyType
from typing import Final

TEXTS: Final = MappingProxyType(
    {
        "wrong_gpu": (
            "[TensorRT-LLM][ERROR] IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error "
            "(The engine plan file is generated on an incompatible device, expecting compute 9.0 "
            "got compute 8.9, please rebuild.)"
        ),
        "wrong_version": (
            "[TensorRT-LLM][ERROR] IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error "
            "(The engine plan file is not compatible with this version of TensorRT, expecting "
            "library version 10.14.1.48 got 10.13.3.9, please rebuild.)"
        ),
        "deserialize": (
            "[TensorRT-LLM][ERROR] Assertion failed: Failed to deserialize cuda engine."
        ),
        "gpu_oom": (
            "[TensorRT-LLM][ERROR] CUDA runtime error in ::cudaMallocAsync(ptr, n, "
            "mPool->getPool(), mCudaStream->get()): out of memory"
        ),
        "instance_state": "unexpected error when creating modelInstanceState",
        "world_size": "[TensorRT-LLM][ERROR] Assertion failed: mpiSize == tp * pp",
        "world_size_leader": (
            "[TensorRT-LLM][ERROR] Assertion failed: With communicationMode kLEADER, MPI worldSize "
            "is expected to be equal to tp*pp when participantIds are not specified"
        ),
        "mpi_abort": (
            "MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\nwith errorcode 1."
        ),
        "shm_pool": (
            "Failed to increase the shared memory pool size for key "
            "'triton_python_backend_shm_region_1' to 67108864 bytes. If you are running Triton "
            "inside docker, use '--shm-size' flag to control the shared memory region size. "
            "Error: No space left on device"
        ),
        "shm_key": (
            "Unable to initialize shared memory key 'triton_python_backend_shm_region_1' to "
            "requested size (1048576 bytes). If you are running Triton inside docker, use "
            "'--shm-size' flag to control the shared memory region size. Error: No space left on "
            "device"
        ),
        "streaming_not_decoupled": (
            "Streaming is only supported if model is deployed using decoupled mode."
        ),
        "infer_decoupled": (
            "ModelInfer RPC doesn't support models with decoupled transaction policy"
        ),
        "http_decoupled": (
            "HTTP end point doesn't support models with decoupled transaction policy"
        ),
        "backend_missing": (
            "unable to find backend library for backend 'tensorrtllm', try specifying runtime on "
            "the model configuration."
        ),
        "prompt_too_long": (
            "Prompt length (300) exceeds maximum input length (255). Set log level to info and "
            "check TRTGptModel logs for how maximum input length is set"
        ),
        "build_failed": "Engine building failed, please check error log.",
        "no_formats": (
            "[TensorRT-LLM][ERROR] 9: LLaMAForCausalLM/transformer/layers/0/attention/qkv/"
            "PLUGIN_V2_Gemm_0: could not find any supported formats consistent with input/output "
            "data types"
        ),
        "unsupported_sm": (
            "[TensorRT-LLM][ERROR] Assertion failed: Unsupported data type or architecture: FMHA "
            "has no kernel for sm_120"
        ),
        "no_kernel": (
            "[TensorRT-LLM][ERROR] CUDA error: no kernel image is available for execution on the "
            "device"
        ),
        "floating_point": "Floating point exception (core dumped)",
        "stub_stuck": "Starting Python backend stub:  exec",
        "stub_timeout": "Timed out occurred while waiting for the stub process.",
        "trtllm_build_missing": "trtllm-build: command not found",
        "tensorrt_engine_missing": (
            "ModuleNotFoundError: No module named 'tensorrt_llm._tensorrt_engine'"
        ),
        "tensorrt_backend_removed": (
            'ValueError: backend="tensorrt" is not supported any more; the TensorRT backend was '
            "removed"
        ),
        "text_proto": "failed to read text proto from /repository/tensorrt_llm/config.pbtxt",
        "lora_not_cached": (
            "[TensorRT-LLM][ERROR] LoRA task 1 not found in cache. Please send LoRA weights with "
            "request"
        ),
        "network": (
            "ConnectionError: Couldn't reach 'cnn_dailymail' on the Hub (LocalEntryNotFoundError)"
        ),
        "exit_timeout": "Exit timeout expired. Exiting immediately.",
    }
)
