"""What is to be said of Triton, TensorRT-LLM and PyTorch on a host."""

from collections.abc import Iterator
from typing import Final

from engineshed.agent.domain.doctor.checks import IMAGE, RUN_IMAGE, Check, Mark
from engineshed.agent.domain.doctor.facts import Facts, Toolchain, Torch, Triton, Unseen

TRITON: Final = "Triton"
TENSORRT_LLM: Final = "TensorRT-LLM"
PYTORCH: Final = "PyTorch"

_GET_TRITON: Final = f"pip install 'engineshed[embedded]'; or {RUN_IMAGE}"
_GET_TORCH: Final = "pip install 'engineshed[torch]'"


def check_triton(triton: Triton | Unseen) -> Iterator[Check]:
    """Say where the server and its back ends are."""
    if isinstance(triton, Unseen):
        yield Check(TRITON, "tritonserver", Mark.MISSING, triton.reason, _GET_TRITON)
        triton = Triton("", False, "", python="", tensorrtllm="", worker="")
    elif triton.executable:
        yield Check(TRITON, "tritonserver", Mark.OK, f"{triton.version}, {triton.server}")
    else:
        found = f"{triton.server} is no program that can be run"
        yield Check(TRITON, "tritonserver", Mark.MISSING, found, _GET_TRITON)
    yield _path(TRITON, "Python back end", triton.python, _GET_TRITON)
    name = "tensorrtllm back end"
    if triton.tensorrtllm and not triton.worker:
        found = f"{triton.tensorrtllm}, without its trtllmExecutorWorker"
        yield Check(TRITON, name, Mark.WARNING, found, RUN_IMAGE)
    else:
        yield _path(TRITON, name, triton.tensorrtllm, RUN_IMAGE)


def check_toolchain(facts: Facts) -> Iterator[Check]:
    """Say what there is to build TensorRT-LLM engines with, and to start them on several GPUs."""
    toolchain = facts.toolchain
    if isinstance(toolchain, Unseen):
        yield Check(TENSORRT_LLM, "trtllm-build", Mark.MISSING, toolchain.reason, RUN_IMAGE)
        return
    yield _check_command(toolchain)
    yield _version(TENSORRT_LLM, "TensorRT-LLM", toolchain.tensorrt_llm, RUN_IMAGE)
    yield _version(TENSORRT_LLM, "TensorRT", toolchain.tensorrt, RUN_IMAGE)
    yield _check_scripts(toolchain)
    yield _path(TENSORRT_LLM, "in-flight batcher template", toolchain.template, RUN_IMAGE)
    yield _path(TENSORRT_LLM, "LLM API model", toolchain.llmapi, RUN_IMAGE)
    if toolchain.mpirun:
        yield Check(TENSORRT_LLM, "mpirun", Mark.OK, toolchain.mpirun)
    elif facts.several_gpus:
        found = "not in PATH: without it TensorRT-LLM serves no model on several GPUs"
        yield Check(TENSORRT_LLM, "mpirun", Mark.WARNING, found, RUN_IMAGE)


def check_torch(facts: Facts) -> Iterator[Check]:
    """Say whether PyTorch is here, and whether it sees the GPUs that the driver sees."""
    torch = facts.torch
    if isinstance(torch, Unseen):
        yield Check(PYTORCH, "PyTorch", Mark.MISSING, torch.reason, _GET_TORCH)
        return
    built = f"built for CUDA {torch.cuda}" if torch.cuda else "built without CUDA"
    if facts.real_gpus and not torch.devices:
        yield Check(PYTORCH, "PyTorch", Mark.WARNING, *_sees_none(torch, built))
    else:
        sees = f", sees {torch.devices} GPUs" if torch.devices else ""
        yield Check(PYTORCH, "PyTorch", Mark.OK, f"{torch.version}, {built}{sees}")
    yield _version(PYTORCH, "transformers", torch.transformers, _GET_TORCH)


def _check_command(toolchain: Toolchain) -> Check:
    name = "trtllm-build"
    if toolchain.command:
        version = toolchain.tensorrt_llm or "of an unknown version"
        return Check(TENSORRT_LLM, name, Mark.OK, f"{version}, {toolchain.command}")
    if toolchain.tensorrt_llm:
        found = (
            f"not in PATH, though TensorRT-LLM {toolchain.tensorrt_llm} is here: after 1.3.0rc20 "
            "it builds no TensorRT engines any more"
        )
        return Check(TENSORRT_LLM, name, Mark.MISSING, found, RUN_IMAGE)
    return Check(TENSORRT_LLM, name, Mark.MISSING, "not in PATH", RUN_IMAGE)


def _check_scripts(toolchain: Toolchain) -> Check:
    name = "conversion scripts"
    if not toolchain.families:
        return Check(TENSORRT_LLM, name, Mark.MISSING, "not found", RUN_IMAGE)
    found = f"{toolchain.examples}, of {len(toolchain.families)} model families"
    if toolchain.quantize:
        return Check(TENSORRT_LLM, name, Mark.OK, f"{found}, and quantize.py")
    hint = f"{IMAGE} has it"
    return Check(TENSORRT_LLM, name, Mark.WARNING, f"{found}, without quantize.py", hint)


def _sees_none(torch: Torch, built: str) -> tuple[str, str]:
    """Return what is found, and what helps, where PyTorch sees none of the GPUs that there are."""
    public = torch.version.partition("+")[0]
    if torch.cuda:
        hint = "driver and PyTorch must go together: https://pytorch.org/get-started/locally"
    else:
        hint = f"PyPI's build brings CUDA: pip install --force-reinstall torch=={public}"
    return f"{torch.version}, {built}, sees none of the GPUs", hint


def _path(group: str, name: str, path: str, hint: str) -> Check:
    if path:
        return Check(group, name, Mark.OK, path)
    return Check(group, name, Mark.MISSING, "not found", hint)


def _version(group: str, name: str, version: str, hint: str) -> Check:
    if version:
        return Check(group, name, Mark.OK, version)
    return Check(group, name, Mark.MISSING, "not installed", hint)
