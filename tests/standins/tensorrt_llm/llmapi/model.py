"""The stand-in for Triton's model around TensorRT-LLM's LLM API."""

import os
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_llm  # type: ignore[import-not-found]  # the image's
import triton_python_backend_utils as triton  # only there in Triton's stub
import yaml
from helpers import one, sampling, texts  # type: ignore[import-not-found]  # it lies beside
from stand_in_toolchain import loading  # type: ignore[import-not-found]  # the image's
from stand_in_toolchain.orders import read_order  # type: ignore[import-not-found]  # the image's

_FINAL = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_IMAGE = Path(tensorrt_llm.__file__).parents[4]
_ON_DEMAND = ("finish_reason", "stop_reason", "cumulative_logprob")


def _read_arguments() -> dict[str, Any]:
    name = os.environ.get("LLM_CONFIG_PATH", "model.yaml")
    arguments: dict[str, Any] = yaml.safe_load((Path(triton.get_model_dir()) / name).read_text())
    return arguments


class TritonPythonModel:
    """One model."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Say what model.yaml says of Triton's own configuration."""
        said = _read_arguments()["triton_config"]
        config.set_model_transaction_policy({"decoupled": bool(said["decoupled"])})
        config.set_max_batch_size(int(said["max_batch_size"]))
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine."""
        arguments = _read_arguments()
        said = arguments.pop("triton_config")
        self._decoupled = bool(said["decoupled"])
        try:
            loading.obey(_IMAGE)
            from tensorrt_llm.llmapi import LLM  # type: ignore[import-not-found]  # the image's

            self._llm = LLM(_IMAGE, loading.end_server, **arguments)
        except Exception as error:
            sys.stderr.write(f"[trtllm] Failed to start engine: {error}\n")
            raise
        self._in_flight: dict[int, tuple[Any, Any]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        period = said.get("cancellation_check_period_ms", 100) / 1000
        self._watcher = threading.Thread(target=self._watch, args=(period,), daemon=True)
        self._watcher.start()

    def execute(self, requests: list[Any]) -> None:
        """Start on the requests."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._start(request, sender)
            except Exception as error:  # noqa: BLE001 - all go to the caller, as in the real one
                _fail(sender, f"Error generating request: {error}")

    def finalize(self) -> None:
        """Stop the engine."""
        self._closing.set()
        self._watcher.join()
        self._llm.shutdown()

    def _start(self, request: Any, sender: Any) -> None:
        if one(request, "stop"):
            self._stop(request.request_id(), sender)
            return
        order = read_order(_IMAGE, "serve")
        if "text" in order:
            raise RuntimeError(order["text"])
        streaming = bool(one(request, "streaming"))
        if streaming and not self._decoupled:
            raise triton.TritonModelException("Streaming is only supported in decoupled mode.")
        wanted = [name for name in _ON_DEMAND if one(request, f"return_{name}")]
        [prompt, *_] = texts(request, "text_input")
        take = partial(self._take, request, sender, streaming, wanted)
        with self._lock:  # held until it is known, for the answer may come at once
            running = self._llm.generate(
                prompt, sampling(request), texts(request, "sampling_param_stop"), take
            )
            self._in_flight[id(request)] = request, running

    def _take(
        self, request: Any, sender: Any, streaming: bool, wanted: list[str], output: Any
    ) -> None:
        with self._lock:
            if id(request) not in self._in_flight:
                return  # it was cancelled, and answered as such
            if output.finished:
                del self._in_flight[id(request)]
        if not output.finished and not streaming:
            return
        named = {"text_output": output.text} | {name: getattr(output, name) for name in wanted}
        tensors = [
            triton.Tensor(name, np.array([str(value).encode()], np.object_))
            for name, value in named.items()
        ]
        sender.send(triton.InferenceResponse(tensors), flags=_FINAL if output.finished else 0)

    def _stop(self, request_id: str, sender: Any) -> None:
        if not request_id:
            _fail(sender, "A request id must be provided for request cancellation")
            return
        with self._lock:
            for request, running in self._in_flight.values():
                running.cancelled |= request.request_id() == request_id
        _fail(sender, "Request cancelled by client", triton.TritonError.CANCELLED)

    def _watch(self, period: float) -> None:
        while not self._closing.wait(period):
            with self._lock:
                gone = {
                    key: each for key, each in self._in_flight.items() if each[0].is_cancelled()
                }
                for key, (request, running) in gone.items():
                    running.cancelled = True
                    del self._in_flight[key]
                    _fail(
                        request.get_response_sender(),
                        "Request cancelled by client",
                        triton.TritonError.CANCELLED,
                    )


def _fail(sender: Any, message: str, code: int | None = None) -> None:
    code = triton.TritonError.INTERNAL if code is None else code
    sender.send(triton.InferenceResponse(error=triton.TritonError(message, code)), flags=_FINAL)
