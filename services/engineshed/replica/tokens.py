"""An engine that takes and gives token ids, with the tensors of NVIDIA's tensorrtllm back end.

Compiled engines have them, and so has the torch back end.
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tritonclient.grpc import service_pb2

from engineshed.replica.domain.answer import Answer, Growing, Limits
from engineshed.replica.domain.detokenizer import Decoding
from engineshed.replica.domain.scored import ScoredAnswer, Spell
from engineshed.replica.engine import (
    LEAST_TOP_P,
    LONGEST_SECONDS,
    Arrived,
    EngineError,
    Generation,
    explain,
)
from engineshed.replica.tensors import Inputs, UnfitModelError, new_request, outputs_of
from engineshed.triton.control import ModelTensors
from engineshed.triton.engine import EngineManifest
from engineshed.triton.infer import InferenceError, infer
from engineshed.triton.streams import Streams

_NEEDED: Final = ("input_ids", "input_lengths", "request_output_len", "streaming")
_OUTPUTS: Final = ("output_ids", "sequence_length")
"""NVIDIA's back end fails a request that does not ask for both."""
_LOG_PROBS: Final = "output_log_probs"
_NEEDS: Final[Mapping[str, Sequence[str]]] = {
    "temperature": ("temperature", "runtime_top_k"),
    "top_p": ("runtime_top_p",),
    "seed": ("seed",),
    "presence_penalty": ("presence_penalty",),
    "frequency_penalty": ("frequency_penalty",),
    "min_tokens": ("min_tokens",),
    "logprobs": ("return_log_probs",),
    "response_format": ("guided_decoding_guide_type", "guided_decoding_guide"),
}
"""The inputs that a parameter of OpenAI's API becomes."""


class Layout:
    """The tensors of one model, and requests made of them.

    What is the same in all requests is made once, for this is done for every sequence.

    Attributes:
        offers: the parameters of OpenAI's API for which the model has inputs.

    """

    def __init__(
        self, model: ModelTensors, end_ids: Sequence[int], *, knows_its_ends: bool
    ) -> None:
        """Look at what the model has.

        Args:
            model: its tensors, as Triton tells.
            end_ids: the tokens that end an answer.
            knows_its_ends: whether the engine ends answers at any of them by itself, once it is
                told one. NVIDIA's takes one, and the others as stop words.

        Raises:
            UnfitModelError: it is no model of this kind.

        """
        self._inputs = inputs = Inputs(model.inputs)
        outputs = {tensor.name for tensor in model.outputs}
        missing = [*inputs.missing(*_NEEDED), *(name for name in _OUTPUTS if name not in outputs)]
        if missing:
            raise UnfitModelError(f"the model has no {', '.join(missing)}")
        offers = inputs.offered(_NEEDS)
        self.offers = offers if _LOG_PROBS in outputs else offers - {"logprobs"}
        self._plain = new_request(_OUTPUTS)
        inputs["streaming"].add(self._plain, value=True)
        inputs.put(self._plain, "exclude_input_in_output", value=True)
        self._add_ends(end_ids, knows_its_ends=knows_its_ends)
        self._scored = service_pb2.ModelInferRequest()
        self._scored.CopyFrom(self._plain)
        if "logprobs" in self.offers:
            self._scored.outputs.add(name=_LOG_PROBS)
            inputs["return_log_probs"].add(self._scored, value=True)

    def request(self, generation: Generation, request_id: str) -> service_pb2.ModelInferRequest:
        """Return Triton's request for `generation`."""
        request = service_pb2.ModelInferRequest()
        request.CopyFrom(self._scored if generation.scored else self._plain)
        request.id = request_id
        inputs = self._inputs
        prompt = array("i", generation.prompt)
        inputs["input_ids"].add_bytes(request, (1, len(prompt)), prompt.tobytes())
        inputs["input_lengths"].add(request, len(prompt))
        inputs["request_output_len"].add(request, generation.max_tokens)
        # One of these is always there: without any, NVIDIA's gives no log probabilities.
        if generation.temperature == 0:
            inputs.put(request, "runtime_top_k", 1)
        else:
            inputs.put(request, "temperature", generation.temperature)
            inputs.put(request, "runtime_top_p", max(generation.top_p, LEAST_TOP_P))
            if generation.seed is not None:
                inputs.put(request, "seed", generation.seed % 2**64)
        if generation.presence_penalty or generation.frequency_penalty:
            inputs.put(request, "presence_penalty", generation.presence_penalty)
            inputs.put(request, "frequency_penalty", generation.frequency_penalty)
            # They count the answer alone, as OpenAI's do; older releases count the prompt, too.
            inputs.put(request, "prompt_ignore_length", len(prompt))
        if generation.min_tokens:
            inputs.put(request, "min_tokens", generation.min_tokens)
        if (guide := generation.guide) is not None:
            inputs.put(request, "guided_decoding_guide_type", guide.kind)
            if guide.schema:
                inputs.put(request, "guided_decoding_guide", guide.schema)
        return request

    def _add_ends(self, end_ids: Sequence[int], *, knows_its_ends: bool) -> None:
        if not end_ids:
            return
        first, *others = end_ids
        self._inputs.put(self._plain, "end_id", first)
        if others and not knows_its_ends and "stop_words_list" in self._inputs:
            # The tokens of all words, and where each word ends: here each has one.
            words = array("i", [*others, *range(1, len(others) + 1)])
            stop_words = self._inputs["stop_words_list"]
            stop_words.add_bytes(self._plain, (1, 2, len(others)), words.tobytes())


class TokenEngine:
    """An engine of token ids in a Triton on this host."""

    takes_ids = True

    def __init__(
        self,
        grpc_port: int,
        layout: Layout,
        manifest: EngineManifest,
        decoding: Decoding,
        spell: Spell,
    ) -> None:
        """Connect to Triton; `decoding` and `spell` make text of its tokens."""
        self._triton = Streams(grpc_port)
        self._layout = layout
        self._decoding = decoding
        self._spell = spell
        guided = frozenset() if manifest.guided_decoding else frozenset({"response_format"})
        self.offers = layout.offers - guided
        self.gone = False

    def answer(self, limits: Limits, *, scored: bool) -> Growing[Any]:
        """Return an answer that grows with token ids, or with those and their log probabilities."""
        if scored:
            return ScoredAnswer(self._decoding, self._spell, limits)
        return Answer(self._decoding, limits)

    async def generate(self, generation: Generation, request_id: str, arrived: Arrived) -> None:
        """Give new token ids to `arrived`, or pairs with log probabilities, as they come."""
        read = read_scored if generation.scored else read_ids

        def take(response: Any) -> None:  # noqa: ANN401 - tritonclient is not typed
            if news := read(response):
                arrived(news)

        request = self._layout.request(generation, request_id)
        try:
            await infer(self._triton, request, LONGEST_SECONDS, take)
        except InferenceError as error:
            raise explain(error) from error

    async def close(self) -> None:
        """Cancel what is running and disconnect."""
        await self._triton.close()


def read_ids(response: Any) -> list[int]:  # noqa: ANN401 - tritonclient is not typed
    """Return the new ids in a response of Triton; none in an empty one.

    Raises:
        EngineError: one of them is no token.

    """
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == "output_ids":
            ids = memoryview(raw).cast("i").tolist()
            if ids and min(ids) < 0:
                raise EngineError(f"the engine sent {min(ids)}, which is no token")
            return ids
    return []


def read_scored(response: Any) -> list[tuple[int, float]]:  # noqa: ANN401 - as above
    """Return the new ids in a response of Triton, each with its log probability.

    Raises:
        EngineError: one of them is no token, or has no log probability.

    """
    if not (ids := read_ids(response)):
        return []
    scores = memoryview(outputs_of(response).get(_LOG_PROBS, b"")).cast("f").tolist()
    if len(scores) < len(ids):
        raise EngineError(f"the engine sent {len(ids)} tokens and {len(scores)} log probabilities")
    # Some releases send those of all tokens so far: the last ones belong to the new tokens.
    return list(zip(ids, scores[-len(ids) :], strict=True))
