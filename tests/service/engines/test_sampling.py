"""Sampling draws from the distribution that the parameters describe."""

import pytest
import torch

from engineshed.agent.engines.torch.generation import GREEDY, Generation, Sampling
from engineshed.agent.engines.torch.sampling import processors_for

_DRAWS = 4000
_CPU = torch.device("cpu")
LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -4.0]])


def draw(sampling: Sampling, draws: int = _DRAWS) -> torch.Tensor:
    """Return how often each token comes, as a share."""
    processors = processors_for(Generation("1", [0], 1, sampling=sampling), _CPU)
    tokens = [int(processors(torch.tensor([[0]]), LOGITS).argmax()) for _ in range(draws)]
    return torch.bincount(torch.tensor(tokens), minlength=LOGITS.shape[1]) / draws


def assert_drawn_from(shares: torch.Tensor, probabilities: torch.Tensor) -> None:
    deviation = (probabilities * (1 - probabilities) / _DRAWS).sqrt()
    assert bool(((shares - probabilities).abs() <= 5 * deviation).all())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_come_as_often_as_the_softmax_says(temperature: float) -> None:
    shares = draw(Sampling(temperature=temperature, seed=1))

    assert_drawn_from(shares, (LOGITS[0] / temperature).softmax(0))


def test_top_k_leaves_the_likeliest() -> None:
    expected = LOGITS[0].clone()
    expected[3:] = -torch.inf

    assert_drawn_from(draw(Sampling(top_k=3, seed=2)), expected.softmax(0))


def test_top_p_leaves_the_smallest_set_that_reaches_it_after_the_temperature() -> None:
    # At temperature 2 the likeliest three have 0.37, 0.22 and 0.17 of the mass, at 1 0.58 and more.
    expected = LOGITS[0] / 2
    expected[3:] = -torch.inf

    assert_drawn_from(draw(Sampling(temperature=2.0, top_p=0.7, seed=3)), expected.softmax(0))


def test_a_tiny_top_p_leaves_the_likeliest_alone() -> None:
    assert draw(Sampling(top_p=1e-6, seed=4), 50)[0] == 1.0


def test_greedy_leaves_the_logits_as_they_are() -> None:
    assert len(processors_for(Generation("1", [0], 1, sampling=GREEDY), _CPU)) == 0
    assert Sampling(temperature=1e-9).greedy


def test_penalties_count_the_answer_and_not_the_prompt() -> None:
    tokens = torch.tensor([[0, 0, 1, 2, 2]])
    sampling = Sampling(temperature=0.0, presence_penalty=0.5, frequency_penalty=0.25)

    scores = processors_for(Generation("1", [0, 0], 1, sampling=sampling), _CPU)(tokens, LOGITS)

    assert (LOGITS - scores)[0].tolist() == pytest.approx([0, 0.75, 1.0, 0, 0, 0])
