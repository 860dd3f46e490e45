"""The stand-in for the tensorrtllm back end: Triton's requests in, the executor's answers out."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # only there in Triton's stub
from orphan import end_with_server  # type: ignore[import-not-found]  # linked beside this file
from stand_in_toolchain import loading  # type: ignore[import-not-found]  # linked beside this file
from stand_in_toolchain.asks import RefusedError, read_ask  # type: ignore[import-not-found]
from stand_in_toolchain.executor import Executor, Running  # type: ignore[import-not-found]
from stand_in_toolchain.gauges import Gauges, values  # type: ignore[import-not-found]
from stand_in_toolchain.guided import Guides, read_tokenizer  # type: ignore[import-not-found]
from stand_in_toolchain.orders import read_order  # type: ignore[import-not-found]
from stand_in_toolchain.texts import TEXTS  # type: ignore[import-not-found]

_IMAGE = Path(__file__).with_name("image").resolve()
_FINAL = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """One engine, loaded by one rank."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine that the parameters name."""
        end_with_server()
        config = json.loads(args["model_config"])
        self._decoupled = config["model_transaction_policy"]["decoupled"]
        self._parameters = _read_parameters(config)
        try:
            self._loaded = loading.load(_IMAGE, self._parameters)
            self._guides = Guides(read_tokenizer(self._parameters))
        except (loading.LoadError, RefusedError) as error:
            raise triton.TritonModelException(str(error)) from error
        self._executor = Executor(
            self._loaded.chooser,
            self._loaded.capacity,
            order=lambda: read_order(_IMAGE, "serve", takes=False),
            crash=loading.end_server,
        )
        model = {"model": args["model_name"], "version": args["model_version"]}
        self._gauges = Gauges(triton, model)
        self._in_flight: dict[int, _InFlight] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._show()
        self._threads = [
            self._repeat(self._show, "stats_check_period_ms"),
            self._repeat(self._drop_cancelled, "cancellation_check_period_ms"),
        ]

    def execute(self, requests: list[Any]) -> None:
        """Hand the requests to the executor."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._start(request, sender)
            except RefusedError as error:
                _fail(sender, str(error))

    def finalize(self) -> None:
        """Drop what is in flight."""
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._executor.close()

    def _start(self, request: Any, sender: Any) -> None:
        tensors = {each.name(): each.as_numpy() for each in request.inputs()}
        if "stop" in tensors and tensors["stop"].any():
            self._stop(request.request_id(), sender)
            return
        order = read_order(_IMAGE, "serve")
        if "text" in order:
            raise RefusedError(_executor_failed(order["text"]))
        with_prompt = self._parameters.get("exclude_input_in_output", "").lower() != "true"
        try:
            ask = read_ask(tensors, self._loaded.limits, with_prompt=with_prompt)
            if ask.streaming and not self._decoupled:
                raise RefusedError(TEXTS["streaming_not_decoupled"])
            forced = self._guides.tokens(*ask.guide) if ask.guide else None
        except RefusedError as error:
            raise RefusedError(_executor_failed(str(error))) from error
        wanted = request.requested_output_names()
        for name in ("output_ids", "sequence_length"):
            if name not in wanted:
                raise RefusedError(
                    "Error encountered while populating response: "
                    f"{name} tensor must be present in list of output tensors"
                )
        outlet = _InFlight(request.request_id(), sender, wanted)
        outlet.running = Running(ask, outlet, forced)
        outlet.on_done = self._forget
        with self._lock:
            self._in_flight[id(outlet)] = outlet
        self._executor.submit(outlet.running)

    def _stop(self, request_id: str, sender: Any) -> None:
        if not request_id:
            raise RefusedError("Trying to stop a request but request ID is not provided")
        with self._lock:
            for outlet in self._in_flight.values():
                outlet.running.cancelled |= outlet.request_id == request_id
        sender.send(flags=_FINAL)

    def _drop_cancelled(self) -> None:
        with self._lock:
            for outlet in self._in_flight.values():
                outlet.running.cancelled |= outlet.sender.is_cancelled()

    def _forget(self, outlet: "_InFlight") -> None:
        with self._lock:
            del self._in_flight[id(outlet)]

    def _show(self) -> None:
        self._gauges.show(
            values(self._executor.statistics, self._loaded.capacity, self._loaded.gpu_bytes)
        )

    def _repeat(self, what: Callable[[], None], period: str) -> threading.Thread:
        seconds = float(self._parameters.get(period, "100")) / 1000

        def work() -> None:
            while not self._closing.wait(seconds):
                what()

        thread = threading.Thread(target=work, name=period, daemon=True)
        thread.start()
        return thread


class _InFlight:
    """Where the answer to one of Triton's requests goes."""

    running: Any
    on_done: Callable[["_InFlight"], None]

    def __init__(self, request_id: str, sender: Any, wanted: list[str]) -> None:
        self.request_id = request_id
        self.sender = sender
        self._wanted = wanted

    def send(self, choices: list[Any], *, final: bool) -> None:
        """Send what is new, or all of it with the last when the request is not streamed."""
        if final:
            self.on_done(self)
        ask = self.running.ask
        if not ask.streaming:
            if not final:
                return
            choices = self.running.choices
        tensors = self._tensors(choices)
        self.sender.send(
            triton.InferenceResponse([each for each in tensors if each.name() in self._wanted]),
            flags=_FINAL if final else 0,
        )

    def _tensors(self, choices: list[Any]) -> list[Any]:
        ask = self.running.ask
        tokens = [choice.token for choice in choices]
        if ask.with_prompt and not ask.streaming:
            tokens = [*ask.prompt, *tokens]
        tensors = [
            triton.Tensor("output_ids", np.array([[tokens]], np.int32)),
            triton.Tensor("sequence_length", np.array([[len(tokens)]], np.int32)),
        ]
        if ask.log_probs:  # of all tokens so far, also where the response has the new ones only
            log_probs = [choice.log_prob for choice in self.running.choices]
            tensors += [
                triton.Tensor("output_log_probs", np.array([[log_probs]], np.float32)),
                triton.Tensor("cum_log_probs", np.array([[sum(log_probs)]], np.float32)),
            ]
        return tensors


def _read_parameters(config: dict[str, Any]) -> dict[str, str]:
    """Return the parameters that are set: a variable of the template that is left is none."""
    values_of = {name: each["string_value"] for name, each in config["parameters"].items()}
    return {name: value for name, value in values_of.items() if value and value[:2] != "${"}


def _executor_failed(text: str) -> str:
    return f"Executor failed process requestId 1 due to the following error: {text}"


def _fail(sender: Any, message: str) -> None:
    sender.send(triton.InferenceResponse(error=triton.TritonError(message)), flags=_FINAL)
