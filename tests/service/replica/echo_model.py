"""A Triton model with the tensors of an engine, which says what its prompt tells it to.

Token ids below 256 are bytes. Greedy, it answers with the prompt's own bytes and then ends;
sampling, with letters drawn from the seed. Words in the prompt change that:

[forever]  says the prompt again and again until the limit
[slow]     takes 20 ms for each token
[later]    takes 300 ms for the first token
[gate]     waits for the file "gate" beside this program before the first token
[fail]     fails at once       [break]  fails after three tokens
[stray]    says a token that there is not after three
[hang]     never answers       [die]    ends the process that runs it
"""

import itertools
import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from engineshed.triton.orphan import end_with_server
from engineshed.triton.refusal import Refusal

GATE = Path(__file__).with_name("gate")


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self._room = threading.Semaphore(int(parameters["max_concurrent"]["string_value"]))
        end_with_server()
        if "load_error" in parameters:
            raise RuntimeError(parameters["load_error"]["string_value"])

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            if not self._room.acquire(blocking=False):
                fail(sender, Refusal.UNAVAILABLE.text("the engine is full"))
                continue
            inputs = {each.name(): each.as_numpy().ravel() for each in request.inputs()}
            threading.Thread(target=self._answer, args=(sender, inputs), daemon=True).start()

    def _answer(self, sender: Any, inputs: dict[str, Any]) -> None:
        try:
            answer(sender, inputs)
        finally:
            self._room.release()


def answer(sender: Any, inputs: dict[str, Any]) -> None:
    prompt = inputs["input_ids"].tolist()
    limit = int(inputs["request_output_len"][0])
    words = bytes(token for token in prompt if token < 256).decode(errors="replace")
    if "[die]" in words:
        os._exit(1)
    if "[later]" in words:
        time.sleep(0.3)
    while "[gate]" in words and not (GATE.exists() or sender.is_cancelled()):
        time.sleep(0.01)
    tokens: Any = itertools.cycle(prompt) if "[forever]" in words else iter(prompt)
    if "temperature" in inputs:
        letters = random.Random(int(inputs["seed"][0]))
        tokens = (letters.randrange(ord("a"), ord("z") + 1) for _ in itertools.count())
    if "end_id" in inputs:
        tokens = itertools.chain(tokens, [int(inputs["end_id"][0])])
    for count, token in enumerate(itertools.islice(tokens, limit)):
        while "[hang]" in words and not sender.is_cancelled():
            time.sleep(0.01)
        if sender.is_cancelled():
            break
        if "[fail]" in words or ("[break]" in words and count == 3):
            fail(sender, Refusal.INTERNAL.text("told to fail"))
            return
        if "[stray]" in words and count == 3:
            token = -1
        if "[slow]" in words:
            time.sleep(0.02)
        sender.send(
            triton.InferenceResponse(
                [
                    triton.Tensor("output_ids", np.array([[[token]]], np.int32)),
                    triton.Tensor("sequence_length", np.array([[1]], np.int32)),
                ]
            )
        )
    sender.send(flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def fail(sender: Any, message: str) -> None:
    sender.send(
        triton.InferenceResponse(error=triton.TritonError(message)),
        flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
    )
