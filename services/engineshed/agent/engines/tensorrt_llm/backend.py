"""The tensorrt_llm back end as the agent sees it. It imports nothing of TensorRT-LLM."""

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, Final

from engineshed.agent.asking import ProcessFailedError
from engineshed.agent.engines.checkpoint import Layout, read_layout
from engineshed.agent.engines.interface import (
    BuildRequest,
    EngineBuildError,
    Fit,
    Hardware,
    Probe,
    Progress,
    Runtime,
)
from engineshed.agent.engines.tensorrt_llm.architectures import Architectures, find_architectures
from engineshed.agent.engines.tensorrt_llm.build import CALIBRATION_FILE, Order, build_engine
from engineshed.agent.engines.tensorrt_llm.families import FAMILY_OF
from engineshed.agent.engines.tensorrt_llm.plan import (
    BuildPlan,
    Calibration,
    Means,
    memory_plan,
    plan_build,
)
from engineshed.agent.engines.tensorrt_llm.render import (
    ENGINE_FOLDER,
    render_compiled,
    write_compiled,
    write_interpreted,
)
from engineshed.agent.engines.tensorrt_llm.shape import Model, model_of
from engineshed.agent.engines.tensorrt_llm.toolchain import APP, Toolchain, find_toolchain
from engineshed.fit import GIB, estimate, unsupported
from engineshed.triton.engine import EngineManifest

_BUILD_SECONDS: Final = 12 * 3600.0
_DIGEST: Final = "ENGINESHED_IMAGE_DIGEST"
"""The variable with the digest of the image that the agent runs in, which the image itself sets."""
_GET: Final = "run the agent in NVIDIA's image tritonserver:…-trtllm-python-py3 with --gpus all"


class TensorRtLlmBackend:
    """Compiles engines on this host's GPUs, or serves with the LLM API. Implements `EngineBackend`.

    Args:
        hardware: what this host has.
        app: where TensorRT-LLM's scripts and templates are.
        calibration: the folder of texts to calibrate with; None: there is none.
        stall_seconds: how long a step of a build may do nothing.
        remembered: the file in which is kept what TensorRT-LLM takes long to say; None: nowhere.

    """

    name = "tensorrt_llm"

    def __init__(
        self,
        hardware: Hardware,
        app: Path = APP,
        calibration: Path | None = None,
        stall_seconds: float = 900.0,
        remembered: Path | None = None,
    ) -> None:
        self._hardware = hardware
        self._app = app
        self._calibration = calibration
        self._stall_seconds = stall_seconds
        self._remembered = remembered
        self._known: Architectures | None = None
        self._asking = Lock()

    def probe(self) -> Probe:
        """Say whether there are GPUs for it, and one of its two paths."""
        if self._hardware.product == "cpu":
            return Probe(available=False, reason=f"it needs GPUs of NVIDIA; {_GET}")
        if why := self._too_old(self._hardware):
            return Probe(available=False, reason=why)
        try:
            toolchain = self._toolchain
        except (ProcessFailedError, OSError, ValueError) as error:
            return Probe(available=False, reason=f"TensorRT-LLM does not answer: {error}")
        compiling, interpreting = toolchain.lacks_to_compile, toolchain.lacks_to_interpret
        if compiling and interpreting:
            missing = ", ".join(compiling)
            reason = f"to compile engines it lacks {missing}; without: {', '.join(interpreting)}"
            return Probe(available=False, reason=f"{reason}; {_GET}")
        return Probe(available=True, versions=self.fingerprint())

    def declines(self, request: BuildRequest) -> str:
        """Decline GPUs that are too old, and models that TensorRT-LLM has no class for.

        Raises:
            EngineBuildError: TensorRT-LLM does not say what it has; another back end must not step
                in for what may be a moment.

        """
        if request.hardware.product == "cpu":
            return "it needs GPUs of NVIDIA"
        if why := self._too_old(request.hardware):
            return why
        if not (architecture := _architecture(request.checkpoint.directory)):
            return ""  # the checkpoint is not as it should be, which its build says better
        if self._compiles(architecture) or self._interprets(architecture):
            return ""
        return f"TensorRT-LLM {self._toolchain.tensorrt_llm} has no class for {architecture}"

    def fingerprint(self) -> Mapping[str, str]:
        """Return the versions that decide what a build yields, and the image's digest if known."""
        found = {
            "engineshed": version("engineshed"),
            "tensorrt_llm": self._toolchain.tensorrt_llm,
            "tensorrt": self._toolchain.tensorrt,
            "image": os.environ.get(_DIGEST, ""),
        }
        return {name: value for name, value in found.items() if value}

    def recipe(self, request: BuildRequest) -> Mapping[str, object]:
        """Return the plan of the build, defaults filled in."""
        return self._plan(request, model_of(read_layout(request.checkpoint.directory))).recipe

    def fits(self, request: BuildRequest) -> Fit:
        """Estimate what each GPU would hold: weights, activations, and one request at its longest.

        Raises:
            EngineBuildError: what is asked for cannot be built, whatever memory there is.

        """
        layout = read_layout(request.checkpoint.directory)
        model = model_of(layout)
        self._plan(request, model)
        available = request.hardware.memory_bytes
        if not model.shape.known:
            return _fit_of_weights(layout, request)
        found = estimate(model.shape, memory_plan(request, model))
        if not available or found.fits:
            return Fit(True, found.needed_bytes, available)
        reason = (
            f"each of {request.hardware.count} GPUs needs {_gib(found.needed_bytes)}, "
            f"{_gib(found.weight_bytes)} of it for weights, and {_gib(found.activation_bytes)} to "
            f"compute; it has {_gib(available)}. There is room for {found.max_tokens} tokens of "
            f"keys and values, where {found.needed_context} are wanted"
        )
        return Fit(False, found.needed_bytes, available, reason)

    async def build(
        self, request: BuildRequest, destination: Path, progress: Progress, log: Path
    ) -> EngineManifest:
        """Build in processes of their own; see `build`.

        Raises:
            EngineBuildError: with the reason.

        """
        order = await asyncio.to_thread(self._order, request)
        try:
            async with asyncio.timeout(_BUILD_SECONDS):
                return await build_engine(order, destination, progress, log)
        except TimeoutError as error:
            message = f"the build did not end within {_BUILD_SECONDS / 3600:.0f} h; see its log"
            raise EngineBuildError("BUILD_TIMEOUT", message, retryable=True) from error

    def render(self, engine: Path, repository: Path, runtime: Runtime) -> None:
        """Write the model repository; the server's process must see no GPUs but the replica's.

        Raises:
            EngineBuildError: RENDER_BUG or TOOLCHAIN_MISSING.

        """
        manifest = EngineManifest.read(engine)
        fraction = runtime.kv_cache_fraction
        if manifest.interface == "text":
            llmapi = _there(self._toolchain.llmapi, "the model around the LLM API")
            write_interpreted(llmapi, engine, manifest, repository, fraction)
            return
        template = _there(self._toolchain.template, "the in-flight batcher's template")
        config = json.loads((engine / ENGINE_FOLDER / "config.json").read_bytes())
        configuration = render_compiled(
            template.read_text(encoding="utf-8"),
            engine,
            manifest,
            config["build_config"],
            fraction,
            self._toolchain.worker,
        )
        write_compiled(repository, configuration)

    @cached_property
    def _toolchain(self) -> Toolchain:
        """What the image has: it does not change while the agent runs."""
        return find_toolchain(self._app)

    def _order(self, request: BuildRequest) -> Order:
        layout = read_layout(request.checkpoint.directory)
        model = model_of(layout)
        return Order(
            request=request,
            layout=layout,
            model=model,
            plan=self._plan(request, model),
            toolchain=self._toolchain,
            versions=self.fingerprint(),
            calibration=self._calibration,
            stall_seconds=self._stall_seconds,
        )

    def _plan(self, request: BuildRequest, model: Model) -> BuildPlan:
        compiled = self._compiles(model.architecture)
        if not compiled and not self._interprets(model.architecture):
            raise EngineBuildError(
                "UNSUPPORTED_ARCHITECTURE",
                f"TensorRT-LLM {self._toolchain.tensorrt_llm} has no class for "
                f"{model.architecture or 'a model without an architecture'}",
                retryable=False,
            )
        means = Means(
            compiled=compiled,
            guided=self._toolchain.tokenizer_info is not None,
            calibration=_calibration(self._calibration) if request.quantization else None,
        )
        plan = plan_build(request, model, means)
        if plan.route == "quantize":
            _there(self._toolchain.quantize, "quantize.py")
        return plan

    def _compiles(self, architecture: str) -> bool:
        """Tell whether an engine can be compiled for an architecture here."""
        family = FAMILY_OF.get(architecture, "")
        there = not self._toolchain.lacks_to_compile and family in self._toolchain.scripts
        return there and architecture in self._architectures().compiled

    def _interprets(self, architecture: str) -> bool:
        """Tell whether TensorRT-LLM's PyTorch runtime has an architecture here."""
        there = not self._toolchain.lacks_to_interpret
        return there and architecture in self._architectures().interpreted

    def _architectures(self) -> Architectures:
        """Return the model classes of the image.

        Raises:
            EngineBuildError: TensorRT-LLM does not answer.

        """
        with self._asking:
            if self._known is None:
                try:
                    self._known = find_architectures(self._toolchain, self._remembered)
                except ProcessFailedError as error:
                    raise EngineBuildError(
                        "TOOLCHAIN_MISSING",
                        f"TensorRT-LLM does not say which models it has: {error}",
                        retryable=True,
                    ) from error
            return self._known

    @staticmethod
    def _too_old(hardware: Hardware) -> str:
        return unsupported(hardware.architecture, gpu=hardware.product)


def _architecture(checkpoint: Path) -> str:
    """Return the model class that config.json names; "" when it names none."""
    try:
        config = json.loads((checkpoint / "config.json").read_bytes())
    except (OSError, ValueError):
        return ""
    return Layout(checkpoint, config, (), {}).architecture if isinstance(config, dict) else ""


def _calibration(folder: Path | None) -> Calibration | None:
    """Return what the texts are; None where there are none.

    Raises:
        EngineBuildError: what is there cannot be used.

    """
    path = folder / CALIBRATION_FILE if folder else None
    if path is None or not path.is_file():
        return None
    digest, texts = hashlib.sha256(), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            digest.update(line)
            if line.strip():
                texts += 1
                _check_text(path, number, line)
    return Calibration(digest.hexdigest(), texts) if texts else None


def _check_text(path: Path, number: int, line: bytes) -> None:
    try:
        content: Any = json.loads(line)
    except ValueError:
        content = None
    if not (isinstance(content, dict) and isinstance(content.get("text"), str)):
        raise EngineBuildError(
            "NO_CALIBRATION_DATA",
            f"line {number} of {path.name} in ENGINESHED_CALIBRATION_DIR is no object with a field "
            "`text`",
            retryable=False,
        )


def _fit_of_weights(layout: Layout, request: BuildRequest) -> Fit:
    """Judge by the weights alone, where config.json says too little for more."""
    available = request.hardware.memory_bytes
    needed = layout.weights_bytes // request.hardware.count
    if not available or needed <= available:
        return Fit(True, needed, available)
    reason = f"the weights alone take {_gib(needed)} of each GPU, which has {_gib(available)}"
    return Fit(False, needed, available, reason)


def _there(path: Path | None, what: str) -> Path:
    if path is None:
        message = f"{what} is not here: {_GET}"
        raise EngineBuildError("TOOLCHAIN_MISSING", message, retryable=True)
    return path


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
