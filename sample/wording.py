"""The same question as many people would ask it.

A model this small learns wordings by heart unless it sees many. So training asks every question
in ways that nobody wrote down: with another beginning, a synonym, a greeting, a typing error.
Grammar may suffer, as it does when people type. Every choice comes from the caller's random
generator, so that the same seed makes the same questions.
"""

import random
from typing import Final

# How people ask for a thing by name; {thing} is "an engine shed", {bare} is "engine shed".
PATTERNS: Final = (
    "What is {thing}?",
    "What's {thing}?",
    "What is {thing} in Engineshed?",
    "What is {thing} for?",
    "What is the role of {thing}?",
    "What does {thing} do?",
    "What does {bare} mean?",
    "What is meant by {bare}?",
    "Why is there {thing}?",
    "Why do I need {thing}?",
    "Tell me what {thing} is.",
    "Tell me about {thing}.",
    "Explain what {thing} is.",
    "Explain {thing}.",
    "Can you explain what {thing} is?",
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

_BEGINNINGS: Final = {
    "How do I ": (
        "How can I ",
        "How could I ",
        "How should I ",
        "How does one ",
        "How to ",
        "I want to ",
        "I would like to ",
        "I need to ",
        "Please ",
        "Let me ",
        "Show me how to ",
        "Tell me how to ",
        "What is the way to ",
        "",
    ),
    "What happens when ": ("What happens if ", "What if ", "What will happen when "),
    "What happens to ": ("What becomes of ", "What will happen to "),
    "Can I ": ("Could I ", "May I ", "Am I able to ", "Is it possible to ", "Is there a way to "),
    "Do I need ": ("Must I have ", "Will I need ", "Do we need ", "Do I have to have "),
    "What is ": (
        "What's ",
        "Whats ",
        "What exactly is ",
        "What actually is ",
        "Do you know what is ",
        "Say what is ",
    ),
    "What are ": ("What exactly are ", "Do you know what are ", "Tell me what are "),
    "What does ": ("What exactly does ", "What will ", "What would "),
    "Which ": ("What ", "Tell me which ", "Do you know which "),
    "Why is ": ("Why's ", "How come that ", "For what reason is "),
    "Where is ": ("Where's ", "Where do I find ", "Where can I find "),
    "Who is ": ("Who's ", "Do you know who is "),
    "Is there ": ("Do you have ", "Does it have ", "Is there perhaps "),
    "How does ": ("In what way does ", "Explain how does ", "How exactly does "),
    "Does Engineshed ": ("Does it ", "Will it ", "Does this ", "Can it ", "Does the platform "),
    "Is Engineshed ": ("Is it ", "Is this ", "Is the platform "),
}
_SYNONYMS: Final = {
    "GPU": ("graphics card", "card", "accelerator"),
    "GPUs": ("graphics cards", "cards", "accelerators"),
    "add": ("upload", "bring in"),
    "big": ("large", "huge"),
    "billed": ("charged", "paid for"),
    "chat": ("talk", "speak"),
    "choose": ("pick", "select"),
    "cost": ("cost me", "cost per hour"),
    "crashes": ("dies", "breaks", "fails"),
    "create": ("make", "add", "set up"),
    "delete": ("remove", "erase", "destroy"),
    "deploy": ("serve", "launch", "put online"),
    "dies": ("crashes", "is killed", "breaks"),
    "down": ("offline", "dead", "unavailable", "gone"),
    "install": ("set up", "get"),
    "kept": ("stored", "saved"),
    "list": ("show", "see", "view"),
    "lost": ("missing", "gone"),
    "made": ("built", "created"),
    "model": ("LLM", "language model"),
    "node": ("machine", "host", "server"),
    "nodes": ("machines", "hosts", "servers"),
    "parts": ("components", "pieces"),
    "pay": ("get charged", "have to pay", "get billed"),
    "remove": ("delete", "drop"),
    "request": ("call", "query"),
    "requests": ("calls", "queries"),
    "restart": ("start again", "resume"),
    "revoke": ("disable", "invalidate"),
    "run": ("start", "execute"),
    "see": ("find", "view", "look at", "show"),
    "serve": ("run", "host", "deploy"),
    "services": ("components", "processes"),
    "start": ("begin", "launch", "run"),
    "statuses": ("states",),
    "stop": ("pause", "halt", "turn off", "shut down"),
    "stored": ("saved", "kept"),
    "support": ("work with", "handle"),
    "update": ("change", "edit", "modify"),
    "use": ("work with", "try"),
    "wait": ("hang on", "wait around"),
    "work": ("function", "operate"),
}
_ARTICLES: Final = ("a", "an", "the", "my", "this", "our")
_SMALL_WORDS: Final = frozenset({*_ARTICLES, "is", "do", "does", "of", "it", "to", "that", "be"})
_QUESTION_WORDS: Final = _SMALL_WORDS | {
    *("what", "how", "why", "which", "who", "when", "where", "there", "are", "can"),
    *("i", "you", "me", "in", "for", "tell", "explain"),
}

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
    "I am new here. ",
    "Answer in one sentence: ",
)
_INSIDE: Final = (
    " in one sentence",
    " in simple words",
    " in a few words",
    " in short",
    " briefly",
    " exactly",
    " really",
    " actually",
    " to me",
    " again",
    " please",
    " here",
    " and why",
    " in this system",
)
_AFTER: Final = (
    " Thanks!",
    " Thank you.",
    " Please answer briefly.",
    " Answer in one sentence.",
    " Explain it simply.",
    " Use simple words.",
    " Be brief.",
    " I am new here.",
    " Do not make things up.",
    " I would like to know.",
)


def named(patterns: tuple[str, ...], term: str) -> list[str]:
    """Put a term, such as "an engine shed", into every pattern that suits it."""
    bare = term.removeprefix("an ").removeprefix("a ")
    suitable = (p for p in patterns if not (term == "Engineshed" and "in Engineshed" in p))
    asked = [pattern.format(thing=term, bare=bare) for pattern in suitable]
    return [question[0].upper() + question[1:] for question in asked]


def plain(question: str) -> str:
    """Strip a question of case and of the punctuation at its end, for comparison."""
    return question.lower().rstrip("?.! ")


def vary(question: str, withheld: frozenset[str], rng: random.Random) -> str:
    """Ask the same thing as somebody else would, but never in a wording that is `withheld`."""
    reworded = _reworded(question, rng)
    if plain(reworded) not in withheld:
        question = reworded
    if len(question) > 8 and rng.random() < 0.15:
        words = question.split(" ")
        at = rng.randrange(len(words))
        words[at] = _mistyped(words[at], rng)
        question = " ".join(words)
    return _shouted_or_whispered(_with_courtesy(question, rng), rng)


def _reworded(question: str, rng: random.Random) -> str:
    if rng.random() < 0.35:
        for beginning, others in _BEGINNINGS.items():
            if question.startswith(beginning):
                question = rng.choice(others) + question.removeprefix(beginning)
                break
    body = question.rstrip("?.!")
    mark = question[len(body) :]
    words = body.split(" ")
    articles = [i for i, word in enumerate(words) if word in _ARTICLES]
    if articles and rng.random() < 0.2:
        words[rng.choice(articles)] = rng.choice(_ARTICLES)
    known = [i for i, word in enumerate(words) if word in _SYNONYMS]
    if known and rng.random() < 0.25:
        at = rng.choice(known)
        words[at] = rng.choice(_SYNONYMS[words[at]])
    return " ".join(_shortened(words, rng)) + mark


def _shortened(words: list[str], rng: random.Random) -> list[str]:
    """Leave out one small word, or all of them, as people do who type into a search box."""
    chance = rng.random()
    if chance < 0.06:
        keywords = [word for word in words if word.lower() not in _QUESTION_WORDS]
        return keywords if len(keywords) > 1 else words
    small = [i for i, word in enumerate(words) if word.lower() in _SMALL_WORDS]
    if chance < 0.2 and small and len(words) > 3:
        gone = rng.choice(small)
        return words[:gone] + words[gone + 1 :]
    return words


def _with_courtesy(question: str, rng: random.Random) -> str:
    body = question.rstrip("?.!")
    mark = "" if rng.random() < 0.4 else question[len(body) :]
    if len(body) > 8 and rng.random() < 0.12:
        body += rng.choice(_INSIDE)
    if rng.random() < 0.2:
        if body[1:2].islower():  # leave NATS and LoRA as they are
            body = body[0].lower() + body[1:]
        body = rng.choice(_BEFORE) + body
    question = body + mark
    return question + rng.choice(_AFTER) if rng.random() < 0.12 else question


def _shouted_or_whispered(question: str, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.3:
        return question.lower()
    return question.upper() if chance < 0.36 else question


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
