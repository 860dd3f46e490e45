"""The text the sample model learns from: the facts of corpus.toml, made into conversations."""

import random
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sample.wording import HELD_OUT_PATTERNS, PATTERNS, named, plain, vary

CORPUS: Final = Path(__file__).with_name("corpus.toml")

# How many questions a conversation has, and how often in a hundred.
_TURNS: Final = {1: 46, 2: 20, 3: 14, 4: 8, 5: 4, 6: 3, 8: 2, 12: 2, 20: 1}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Fact:
    """One answer, the questions that training leads to it, and wordings that it never sees."""

    answer: str
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    held_out_patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """All facts, and the system prompts that stand before some conversations."""

    facts: tuple[Fact, ...]
    withheld: frozenset[str]  # every held-out wording, as `plain` gives it
    system_prompts: tuple[str, ...]
    held_out_system_prompts: tuple[str, ...]


def load(path: Path = CORPUS) -> Corpus:
    """Read the corpus.

    Raises:
        ValueError: one question leads to two answers, or a held-out one is trained on.
    """
    with path.open("rb") as file:
        raw = tomllib.load(file)
    facts = tuple(_fact(entry) for entry in raw["fact"])
    withheld = frozenset(
        plain(question) for fact in facts for question in (*fact.held_out, *fact.held_out_patterns)
    )
    _check(facts, withheld)
    return Corpus(
        facts, withheld, tuple(raw["system_prompts"]), tuple(raw["held_out_system_prompts"])
    )


def conversation(corpus: Corpus, rng: random.Random) -> list[Message]:
    """Make up a conversation of one or more questions, all with their right answers."""
    messages = []
    if rng.random() < 0.5:
        messages.append(Message("system", _system_prompt(corpus, rng)))
    turns = rng.choices(list(_TURNS), list(_TURNS.values()))[0]
    # By the root: a fact that is asked for in many ways needs more room, but not all of it.
    weights = [len(fact.questions) ** 0.5 for fact in corpus.facts]
    for fact in rng.choices(corpus.facts, weights, k=turns):
        question = rng.choice(fact.questions)
        if rng.random() < 0.75:
            question = vary(question, corpus.withheld, rng)
        messages.append(Message("user", question))
        messages.append(Message("assistant", fact.answer))
    return messages


def _fact(entry: dict[str, object]) -> Fact:
    def strings(key: str) -> list[str]:
        value = entry.get(key, [])
        assert isinstance(value, list), f"{key} of {entry} is no list"
        return [str(item) for item in value]

    terms = strings("terms")
    asked = strings("questions") + [q for term in terms for q in named(PATTERNS, term)]
    return Fact(
        answer=str(entry["answer"]),
        questions=tuple(dict.fromkeys(asked)),
        held_out=tuple(strings("held_out")),
        held_out_patterns=tuple(q for term in terms for q in named(HELD_OUT_PATTERNS, term)),
    )


def _check(facts: tuple[Fact, ...], withheld: frozenset[str]) -> None:
    answers: dict[str, str] = {}
    for fact in facts:
        for question in fact.questions:
            if answers.setdefault(plain(question), fact.answer) != fact.answer:
                raise ValueError(f"{question!r} leads to two answers; give it to one fact only")
            if plain(question) in withheld:
                raise ValueError(f"{question!r} is trained on, but also held out")


def _system_prompt(corpus: Corpus, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.3:
        return corpus.system_prompts[0]
    if chance < 0.75:
        return rng.choice(corpus.system_prompts)
    # Sentences that lead nowhere teach it that the question counts, not what stands before it.
    return " ".join(rng.choice(corpus.facts).answer for _ in range(rng.randint(1, 5)))
