"""Building an engine: from a checkpoint to a folder that a replica can serve, step by step.

verifying     the checkpoint's files are those that were registered
placing       the tokenizer (or all of it) is put into the engine's folder, without copying
converting    TensorRT-LLM's own form of the weights is made; or
quantizing    the same with narrower weights
building      trtllm-build makes an engine of each rank
guiding       what guided decoding must know of the tokenizer is written
checking      limits and files are those that were asked for
sealing       the manifest is written

What only the build needs lies in a folder of its own, which is gone at the end.
"""

import asyncio
import errno
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from engineshed.agent.engines.checkpoint import Layout, hash_files
from engineshed.agent.engines.files import hash_file, place
from engineshed.agent.engines.interface import BuildRequest, EngineBuildError, Progress
from engineshed.agent.engines.tensorrt_llm.arguments import (
    build_arguments,
    convert_arguments,
    quantize_arguments,
    tokenizer_info_arguments,
)
from engineshed.agent.engines.tensorrt_llm.child import Step, run_step
from engineshed.agent.engines.tensorrt_llm.families import FAMILY_OF
from engineshed.agent.engines.tensorrt_llm.host import check_room, room_for_builds
from engineshed.agent.engines.tensorrt_llm.marks import MARKS_OF_A_RANK, Marks
from engineshed.agent.engines.tensorrt_llm.peak import MemoryPeak
from engineshed.agent.engines.tensorrt_llm.plan import BuildPlan, memory_plan
from engineshed.agent.engines.tensorrt_llm.render import (
    CHECKPOINT_FOLDER,
    ENGINE_FOLDER,
    TOKENIZER_FOLDER,
    TOKENIZER_INFO,
)
from engineshed.agent.engines.tensorrt_llm.result import check_converted, check_engine
from engineshed.agent.engines.tensorrt_llm.shape import Model, end_ids
from engineshed.agent.engines.tensorrt_llm.toolchain import Toolchain, toolchain_environment
from engineshed.agent.engines.tensorrt_llm.watch import share
from engineshed.fit import estimate
from engineshed.triton.engine import EngineFile, EngineManifest
from engineshed.triton.signatures import Phase

CALIBRATION_FILE: Final = "train.jsonl"
RECIPE_FILE: Final = "agent-build.json"
_SCRATCH: Final = "scratch"
_WEIGHTS: Final = ".safetensors"
_INDEX: Final = ".safetensors.index.json"
_TOKENIZER: Final = re.compile(
    r"tokenizer\.(json|model)|vocab\.(json|txt)|.*\.(tiktoken|spm|vocab)"
)
_OPTION: Final = re.compile(r"--[A-Za-z][\w-]*")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Order:
    """All that a build goes by."""

    request: BuildRequest
    layout: Layout
    model: Model
    plan: BuildPlan
    toolchain: Toolchain
    versions: Mapping[str, str]
    calibration: Path | None
    """The folder of the texts."""
    stall_seconds: float


async def build_engine(
    order: Order, destination: Path, progress: Progress, build_log: Path
) -> EngineManifest:
    """Build what `order` says into the empty folder `destination`.

    Raises:
        EngineBuildError: with the reason.

    """
    loop = asyncio.get_running_loop()

    def say(stage: str, fraction: float) -> None:
        loop.call_soon_threadsafe(progress, stage, fraction)

    try:
        return await _Build(order, destination, say, build_log).run()
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            message = f"the disk is full: {error}"
            raise EngineBuildError("DISK_FULL", message, retryable=True) from error
        raise


class _Build:
    """One build on its way."""

    def __init__(
        self, order: Order, destination: Path, progress: Progress, build_log: Path
    ) -> None:
        """`progress` may be called in any thread."""
        self._order = order
        self._plan = order.plan
        self._destination = destination
        self._scratch = destination / _SCRATCH
        self._model = self._scratch / CHECKPOINT_FOLDER
        self._progress = progress
        self._log = build_log
        self._peak = MemoryPeak(order.request.gpus)
        self._env = toolchain_environment(order.toolchain.interpreter) | {
            "CUDA_VISIBLE_DEVICES": ",".join(order.request.gpus),
            # A container may have no home to write to.
            "HF_HOME": str(self._scratch / "huggingface"),
            "XDG_CACHE_HOME": str(self._scratch / "cache"),
            "TRITON_CACHE_DIR": str(self._scratch / "cache" / "triton"),
        }

    async def run(self) -> EngineManifest:
        """Do one step after the other."""
        names, guided = self._order.layout.files, False
        files = await self._verify()
        if self._plan.route == "interpret":
            await asyncio.to_thread(self._place, {CHECKPOINT_FOLDER: names})
            engine: Mapping[str, Any] = {}
        else:
            texts = [name for name in names if _is_text(name)]
            places = {f"{_SCRATCH}/{CHECKPOINT_FOLDER}": names, TOKENIZER_FOLDER: texts}
            await asyncio.to_thread(self._place, places)
            converted = await self._convert()
            engine = await self._compile(converted)
            guided = self._plan.guided_decoding and await self._describe_tokenizer()
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
        return await asyncio.to_thread(self._seal, files, engine, guided)

    async def _verify(self) -> dict[str, EngineFile]:
        layout, gpus = self._order.layout, self._plan.tp_size
        self._progress("verifying", 0.0)
        self._log.touch()
        if not any(_TOKENIZER.fullmatch(name) for name in layout.files):
            raise EngineBuildError(
                "NO_TOKENIZER",
                "the checkpoint has no tokenizer: it needs tokenizer.json, or the vocabulary files "
                "of its tokenizer, beside config.json",
                retryable=False,
            )
        if concern := check_room(room_for_builds(self._destination), layout.weights_bytes, gpus):
            await asyncio.to_thread(_note, self._log, concern)
        return await asyncio.to_thread(hash_files, layout, partial(self._progress, "verifying"))

    def _place(self, places: Mapping[str, Sequence[str]]) -> None:
        """Put files of the checkpoint into folders of the engine's."""
        pairs = [(folder, name) for folder, names in places.items() for name in names]
        for number, (folder, name) in enumerate(pairs):
            self._progress("placing", number / len(pairs))
            place(self._order.layout.directory / name, self._destination / folder / name)
        self._progress("placing", 1.0)

    async def _convert(self) -> Path:
        """Make the intermediate checkpoint; return its folder."""
        plan, toolchain = self._plan, self._order.toolchain
        converted = self._scratch / "converted"
        if plan.route == "quantize":
            assert toolchain.quantize is not None, "the back end has seen to that"
            texts = await asyncio.to_thread(self._place_texts)
            arguments = quantize_arguments(plan, self._model, texts, converted)
            script, stage = toolchain.quantize, "quantizing"
        else:
            family = FAMILY_OF[self._order.model.architecture]
            script, stage = toolchain.scripts[family], "converting"
            options = await self._options(script)
            arguments = convert_arguments(plan, options, self._model, converted)
        command = (str(toolchain.interpreter), str(script), *arguments)
        await self._run(stage, "convert", command, converted)
        await asyncio.to_thread(check_converted, converted, plan.tp_size)
        return converted

    async def _options(self, script: Path) -> frozenset[str]:
        """Return the options that a script takes, by its own help: every family's has others."""
        told = self._scratch / "help.txt"
        command = (str(self._order.toolchain.interpreter), str(script), "--help")
        step = Step("looking", "convert", command, self._env, self._scratch, self._scratch)
        await run_step(step, told, self._order.stall_seconds, lambda _: None)
        return frozenset(_OPTION.findall(told.read_text(errors="replace")))

    async def _compile(self, converted: Path) -> Mapping[str, Any]:
        """Build the engine; return what its config.json says."""
        assert self._order.toolchain.build is not None, "the back end has seen to that"
        engine = self._destination / ENGINE_FOLDER
        arguments = build_arguments(self._plan, converted, engine)
        await self._run("building", "build", (str(self._order.toolchain.build), *arguments), engine)
        self._progress("checking", 0.0)
        version = self._order.toolchain.tensorrt_llm
        return await asyncio.to_thread(check_engine, engine, self._plan, version)

    async def _describe_tokenizer(self) -> bool:
        """Write what guided decoding needs; False: it cannot be had of this tokenizer."""
        script = self._order.toolchain.tokenizer_info
        output = self._destination / TOKENIZER_INFO
        arguments = tokenizer_info_arguments(self._destination / TOKENIZER_FOLDER, output.parent)
        command = (str(self._order.toolchain.interpreter), str(script), *arguments)
        try:
            await self._run("guiding", "convert", command, output.parent)
        except EngineBuildError as error:
            log.warning("no_guided_decoding", reason=error.message)
        if output.is_file():
            return True
        await asyncio.to_thread(shutil.rmtree, output.parent, ignore_errors=True)
        await asyncio.to_thread(_note, self._log, "no guided decoding: see above")
        return False

    async def _run(self, stage: str, phase: Phase, command: tuple[str, ...], output: Path) -> None:
        expected = self._order.layout.weights_bytes
        marks = await asyncio.to_thread(Marks, self._log)

        def look(written: int) -> None:
            marked = share(marks.seen(), MARKS_OF_A_RANK * self._plan.tp_size)
            self._progress(stage, max(share(written, expected), marked))
            self._peak.look()

        step = Step(stage, phase, command, self._env, self._scratch, output)
        await run_step(step, self._log, self._order.stall_seconds, look)
        self._progress(stage, 1.0)

    def _place_texts(self) -> Path:
        """Put the texts alone into a folder: the script reads all that lies beside them."""
        assert self._order.calibration is not None, "the plan has seen to that"
        texts = self._scratch / "texts"
        place(self._order.calibration / CALIBRATION_FILE, texts / CALIBRATION_FILE)
        return texts

    def _seal(
        self, files: Mapping[str, EngineFile], engine: Mapping[str, Any], guided: bool
    ) -> EngineManifest:
        self._progress("sealing", 0.0)
        self._write_recipe()
        known = {
            f"{folder}/{name}": file
            for folder in (CHECKPOINT_FOLDER, TOKENIZER_FOLDER)
            for name, file in files.items()
        }
        manifest = self._manifest(engine, guided).sealed(_hashed(self._destination, known))
        manifest.write(self._destination)
        self._peak.write(self._destination)
        self._progress("sealing", 1.0)
        return manifest

    def _write_recipe(self) -> None:
        recipe = {"recipe": self._plan.recipe, "versions": dict(self._order.versions)}
        text = json.dumps(recipe, indent=2, sort_keys=True) + "\n"
        (self._destination / RECIPE_FILE).write_text(text, encoding="utf-8")

    def _manifest(self, engine: Mapping[str, Any], guided: bool) -> EngineManifest:
        plan, model, request = self._plan, self._order.model, self._order.request
        compiled = plan.route != "interpret"
        built = engine.get("pretrained_config", {})
        shape = model.shape
        token_bytes = estimate(shape, memory_plan(request, model)).token_bytes if shape.known else 0
        return EngineManifest(
            backend="tensorrt_llm",
            engine_kind="tensorrt" if compiled else "pytorch",
            checkpoint_digest=request.checkpoint.digest,
            architecture=model.architecture,
            parameter_count=self._order.layout.parameter_count,
            dtype=plan.dtype,
            quantization=plan.quantization,
            vocab_size=int(built.get("vocab_size") or model.vocab_size),
            max_context=plan.limits.max_seq_len,
            max_concurrent=plan.limits.max_batch_size,
            eos_token_ids=end_ids(self._order.layout.config, self._generation()),
            hardware=request.hardware.product,
            decoding="continuous",
            attention="gpt_attention_plugin" if compiled else "tensorrt_llm",
            tokenizer=TOKENIZER_FOLDER if compiled else CHECKPOINT_FOLDER,
            interface="tokens" if compiled else "text",
            world_size=plan.tp_size,
            kv_token_bytes=token_bytes,
            max_batch_tokens=plan.limits.max_num_tokens,
            guided_decoding=guided,
            versions=dict(self._order.versions),
        )

    def _generation(self) -> dict[str, Any]:
        path = self._order.layout.directory / "generation_config.json"
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def _is_text(name: str) -> bool:
    """Tell whether a file is needed by who reads and writes text, but not by who computes."""
    return not name.endswith((_WEIGHTS, _INDEX))


def _hashed(folder: Path, known: Mapping[str, EngineFile]) -> dict[str, EngineFile]:
    """Return size and sha256 of every file; those that are known are not read again."""

    def look(path: Path) -> tuple[str, EngineFile]:
        name = path.relative_to(folder).as_posix()
        return name, known.get(name) or EngineFile(path.stat().st_size, hash_file(path))

    with ThreadPoolExecutor(max_workers=4) as pool:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return dict(pool.map(look, files))


def _note(build_log: Path, text: str) -> None:
    with build_log.open("a", encoding="utf-8") as file:
        file.write(f"\n--- {text}\n")
