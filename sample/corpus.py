"""The text the sample model learns from: facts out of corpus.toml, made into conversations.

A model this small learns wordings by heart unless it sees many, so training questions are varied:
other patterns, other case, a greeting before, a typing error. Every choice comes from the caller's
random generator, so that the same seed makes the same conversations.
"""

import random
import tomllib
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).with_name("corpus.toml")

# How people ask for a thing by name; {thing} is "an engine shed", {bare} is "engine shed".
PATTERNS: Final = (
    "What is {thing}?",
    "What's {thing}?",
    "What is {thing} in Engineshed?",
    "Tell me what {thing} is.",
    "Tell me about {thing}.",
    "Explain what {thing} is.",
    "Explain {thing}.",
    "Can you explain what {thing} is?",
    "What does {bare} mean?",
    "What is meant by {bare}?",
    "Define {bare}.",
    "Describe {thing}.",
    "{bare}",
    "{bare}?",
)
HELD_OUT_PATTERNS: Final = (
    "Could you say what {thing} is?",
    "I want to understand what {thing} is.",
    "Give me a definition of {bare}.",
    "So what is {thing} then?",
)

_BEFORE: Final = (
    "Hi, ",
    "Hello! ",
    "Hey, ",
    "Please: ",
    "So, ",
    "Ok, ",
    "And ",
    "But ",
    "Quick question: ",
    "I have a question. ",
    "One more question: ",
    "Can you tell me: ",
    "I would like to know: ",
    "Sorry, ",
)
_AFTER: Final = (" Thanks!", " Thank you.", " please", " Please answer briefly.", " I am new here.")
_SMALL_WORDS: Final = frozenset({"a", "an", "the", "is", "do", "does", "of", "my", "it", "to"})

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
    _check(facts)
    return Corpus(facts, tuple(raw["system_prompts"]), tuple(raw["held_out_system_prompts"]))


def conversation(corpus: Corpus, rng: random.Random) -> list[Message]:
    """Make up a conversation of one or more questions, all with their right answers."""
    messages = []
    if rng.random() < 0.5:
        messages.append(Message("system", _system_prompt(corpus, rng)))
    weights = [len(fact.questions) ** 0.5 for fact in corpus.facts]
    turns = rng.choices(list(_TURNS), list(_TURNS.values()))[0]
    for fact in rng.choices(corpus.facts, weights, k=turns):
        question = rng.choice(fact.questions)
        messages.append(Message("user", vary(question, rng) if rng.random() < 0.7 else question))
        messages.append(Message("assistant", fact.answer))
    return messages


def vary(question: str, rng: random.Random) -> str:
    """Ask the same thing in slightly other words: case, punctuation, courtesy, a typing error."""
    if rng.random() < 0.4:
        question = question.rstrip("?.!")
    words = question.split(" ")
    if len(words) > 3 and rng.random() < 0.2:
        small = [i for i, word in enumerate(words) if word.lower() in _SMALL_WORDS]
        if small:
            del words[rng.choice(small)]
    if len(question) > 8 and rng.random() < 0.15:
        at = rng.randrange(len(words))
        words[at] = _mistyped(words[at], rng)
    question = " ".join(words)
    if rng.random() < 0.25:
        if question[1:2].islower():  # leave NATS and LoRA as they are
            question = question[0].lower() + question[1:]
        question = rng.choice(_BEFORE) + question
    if rng.random() < 0.1:
        question += rng.choice(_AFTER)
    case = rng.random()
    if case < 0.3:
        return question.lower()
    return question.upper() if case < 0.33 else question


def _fact(entry: dict[str, object]) -> Fact:
    def strings(key: str) -> list[str]:
        value = entry.get(key, [])
        assert isinstance(value, list), f"{key} of {entry} is no list"
        return [str(item) for item in value]

    terms = strings("terms")
    asked = chain(strings("questions"), _asked(PATTERNS, terms))
    return Fact(
        answer=str(entry["answer"]),
        questions=tuple(dict.fromkeys(asked)),
        held_out=tuple(strings("held_out")),
        held_out_patterns=tuple(_asked(HELD_OUT_PATTERNS, terms)),
    )


def _asked(patterns: tuple[str, ...], terms: list[str]) -> list[str]:
    asked = [
        pattern.format(thing=term, bare=term.removeprefix("an ").removeprefix("a "))
        for term in terms
        for pattern in patterns
        if not (term == "Engineshed" and "in Engineshed" in pattern)
    ]
    return [question[0].upper() + question[1:] for question in asked]


def _check(facts: tuple[Fact, ...]) -> None:
    answers: dict[str, str] = {}
    for fact in facts:
        for question in fact.questions:
            if answers.setdefault(question, fact.answer) != fact.answer:
                raise ValueError(f"{question!r} leads to two answers; give it to one fact only")
    for fact in facts:
        for question in chain(fact.held_out, fact.held_out_patterns):
            if question in answers:
                raise ValueError(f"{question!r} is held out, but also trained on")


def _system_prompt(corpus: Corpus, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.3:
        return corpus.system_prompts[0]
    if chance < 0.75:
        return rng.choice(corpus.system_prompts)
    # Sentences that lead nowhere teach it that the question counts, not what stands before it.
    return " ".join(rng.choice(corpus.facts).answer for _ in range(rng.randint(1, 2)))


def _mistyped(word: str, rng: random.Random) -> str:
    if len(word) < 4:
        return word
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(3)
    if kind == 0:  # two letters change places
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:  # one is missing
        return word[:at] + word[at + 1 :]
    return word[:at] + word[at] + word[at:]  # one is there twice
