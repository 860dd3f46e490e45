"""An engine that takes and gives text: the model of TensorRT-LLM's LLM API (NVIDIA's `llmapi`).

It tokenizes by itself, and each of its responses has the whole text so far. The front tokenizes,
too: to know how long a prompt is, and how many tokens an answer has.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tritonclient.grpc import service_pb2

from engineshed.replica.domain.answer import FinishReason, Growing, Limits
from engineshed.replica.domain.text_answer import TextAnswer, TextPiece
from engineshed.replica.engine import (
    LEAST_TOP_P,
    LONGEST_SECONDS,
    Arrived,
    EngineError,
    Generation,
    explain,
)
from engineshed.replica.tensors import Inputs, UnfitModelError, new_request, outputs_of, text_of
from engineshed.triton.control import ModelTensors
from engineshed.triton.infer import InferenceError, infer
from engineshed.triton.streams import Streams

_NEEDED: Final = ("text_input", "streaming", "sampling_param_max_tokens")
_TEXT: Final = "text_output"
_REASON: Final = "finish_reason"
_NEEDS: Final[Mapping[str, Sequence[str]]] = {
    "temperature": ("sampling_param_temperature", "sampling_param_top_k"),
    "top_p": ("sampling_param_top_p",),
    "seed": ("sampling_param_seed",),
    "presence_penalty": ("sampling_param_presence_penalty",),
    "frequency_penalty": ("sampling_param_frequency_penalty",),
    "min_tokens": ("sampling_param_min_tokens",),
}
"""The inputs that a parameter of OpenAI's API becomes."""
_REASONS: Final[Mapping[str, FinishReason]] = {"stop": "stop", "length": "length"}
_NO_REASON: Final = frozenset({"", "None", "not_finished"})
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class TextLayout:
    """The tensors of one model, and requests made of them.

    Attributes:
        offers: the parameters of OpenAI's API for which the model has inputs.

    """

    def __init__(self, model: ModelTensors) -> None:
        """Look at what the model has.

        Raises:
            UnfitModelError: it is no model of this kind.

        """
        self._inputs = inputs = Inputs(model.inputs)
        outputs = {tensor.name for tensor in model.outputs}
        missing = [*inputs.missing(*_NEEDED), *({_TEXT} - outputs)]
        if missing:
            raise UnfitModelError(f"the model has no {', '.join(missing)}")
        self.offers = inputs.offered(_NEEDS)
        tells = _REASON in outputs and "return_finish_reason" in inputs
        self._base = new_request((_TEXT, _REASON) if tells else (_TEXT,))
        inputs["streaming"].add(self._base, value=True)
        inputs.put(self._base, "sampling_param_exclude_input_from_output", value=True)
        if tells:
            inputs["return_finish_reason"].add(self._base, value=True)

    def request(self, generation: Generation, request_id: str) -> service_pb2.ModelInferRequest:
        """Return Triton's request for `generation`."""
        request = service_pb2.ModelInferRequest()
        request.CopyFrom(self._base)
        request.id = request_id
        self._inputs["text_input"].add(request, generation.text)

        def put(name: str, value: object) -> None:
            self._inputs.put(request, f"sampling_param_{name}", value)

        put("max_tokens", generation.max_tokens)
        if generation.temperature == 0:
            put("top_k", 1)
        else:
            put("temperature", generation.temperature)
            put("top_p", max(generation.top_p, LEAST_TOP_P))
            if generation.seed is not None:
                put("seed", generation.seed % 2**64)
        if generation.presence_penalty:
            put("presence_penalty", generation.presence_penalty)
        if generation.frequency_penalty:
            put("frequency_penalty", generation.frequency_penalty)
        if generation.min_tokens:
            put("min_tokens", generation.min_tokens)
        return request


class TextEngine:
    """An engine of text in a Triton on this host."""

    takes_ids = False

    def __init__(self, grpc_port: int, layout: TextLayout, count: Callable[[str], int]) -> None:
        """Connect to Triton; `count` returns how many tokens a text has."""
        self._triton = Streams(grpc_port)
        self._layout = layout
        self._count = count
        self.offers = layout.offers
        self.gone = False

    def answer(self, limits: Limits, *, scored: bool) -> Growing[Any]:
        """Return an answer that grows with text; it has no log probabilities."""
        assert not scored, "it offers none"
        return TextAnswer(self._count, limits)

    async def generate(self, generation: Generation, request_id: str, arrived: Arrived) -> None:
        """Give new text to `arrived` as it comes, until the engine ends the sequence."""
        growth = Growth()

        def take(response: Any) -> None:  # noqa: ANN401 - tritonclient is not typed
            if (piece := growth.read(response)) is not None:
                arrived([piece])

        request = self._layout.request(generation, request_id)
        try:
            await infer(self._triton, request, LONGEST_SECONDS, take)
        except InferenceError as error:
            raise explain(error) from error
        if growth.held:
            arrived([TextPiece(growth.held)])

    async def close(self) -> None:
        """Cancel what is running and disconnect."""
        await self._triton.close()


class Growth:
    """What each response adds to the text of those before.

    Attributes:
        held: text at the end that may yet change: a character of which not all bytes have come.

    """

    def __init__(self) -> None:
        self._given = 0
        self._text = ""

    @property
    def held(self) -> str:  # noqa: D102 - see above
        return self._text[self._given :]

    def read(self, response: Any) -> TextPiece | None:  # noqa: ANN401 - tritonclient is not typed
        """Return what is new in a response of Triton; None when it is the empty one at the end.

        Raises:
            EngineError: it is not more of the same text, or the engine broke off.

        """
        outputs = outputs_of(response)
        if not (raw := outputs.get(_TEXT)):
            return None
        text = text_of(raw)
        if not text.startswith(self._text[: self._given]):
            raise EngineError("the engine sent text that does not continue what it sent before")
        self._text = text
        reason = _reason(outputs)
        end = len(text) if reason else max(self._given, len(text.rstrip(_REPLACEMENT)))
        piece = TextPiece(text[self._given : end], reason)
        self._given = end
        return piece


def _reason(outputs: Mapping[str, bytes]) -> FinishReason | None:
    told = text_of(raw) if (raw := outputs.get(_REASON)) else ""
    if told in _NO_REASON:
        return None
    if told not in _REASONS:
        raise EngineError(f"the engine ended the answer: {told}")
    return _REASONS[told]
