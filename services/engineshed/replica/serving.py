"""Answers while they come: every sequence of a request read from the engine, and made text.

A reader per sequence takes what the engine sends; the request's own task turns it into text and
passes it on. What comes while that is busy (a slow client, a busy process) goes out in one piece.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from engineshed.replica.admission import Admission
from engineshed.replica.domain.answer import FinishReason, Growing
from engineshed.replica.domain.scored import Score, ScoredAnswer
from engineshed.replica.engine import Arrived, Engine, EngineUnavailableError, Generation
from engineshed.replica.prompts import Task

_FIRST_RETRY_SECONDS: Final = 0.02
_LAST_RETRY_SECONDS: Final = 0.5
_RETRY_FOR_SECONDS: Final = 30.0
_END_SECONDS: Final = 5.0
"""How long the engine may take to end an answer whose last token it has sent."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of one choice."""

    index: int
    text: str
    finish_reason: FinishReason | None
    scores: Sequence[Score] = ()
    """Of tokens whose text was told up to here; none unless they were asked for."""


class Serving:
    """Runs tasks on the engine.

    Attributes:
        running: how many sequences the engine works on now.
        responses: how many responses of the engine there were so far; it grows while it lives.

    """

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine = engine
        self._turns = admission.sequences
        self._runs: set[Run] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self.running = 0
        self.responses = 0

    def start(self, task: Task, request_id: str) -> "Run":
        """Start on a task."""
        answers = [
            self._engine.answer(task.limits, scored=generation.scored)
            for generation in task.generations
        ]
        run = Run(self, answers)
        run.begin(task.generations, request_id)
        self._runs.add(run)
        return run

    def fail_all(self, error: Exception) -> None:
        """Let every task at work fail with `error`."""
        for run in self._runs:
            run.fail(error)

    def forget(self, run: "Run", ending: list[asyncio.Task[None]]) -> None:
        """Take note that a run is over, but for the engine's last word on some sequences."""
        self._runs.discard(run)
        for reader in ending:
            self._ending.add(reader)
            reader.add_done_callback(self._ending.discard)
            asyncio.get_running_loop().call_later(_END_SECONDS, reader.cancel)

    async def generate(self, generation: Generation, request_id: str, arrived: Arrived) -> None:
        """Give what the engine sends of a sequence to `arrived`, once it is its turn.

        Raises:
            EngineError: the engine failed.

        """
        async with self._turns:
            self.running += 1
            try:
                await self._when_there_is_room(generation, request_id, arrived)
            finally:
                self.running -= 1

    async def _when_there_is_room(
        self, generation: Generation, request_id: str, arrived: Arrived
    ) -> None:
        """Ask again while the engine is full: it takes a moment to notice a cancellation."""
        begun = False

        def take(news: Sequence[Any]) -> None:
            nonlocal begun
            begun = True
            self.responses += 1
            arrived(news)

        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + _RETRY_FOR_SECONDS, _FIRST_RETRY_SECONDS
        while True:
            try:
                return await self._engine.generate(generation, request_id, take)
            except EngineUnavailableError:
                if begun or self._engine.gone or loop.time() > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_RETRY_SECONDS)


class Run:
    """One task at work. Use it with `async with`, which ends what is not finished."""

    def __init__(self, serving: Serving, answers: Sequence[Growing[Any]]) -> None:
        self._serving = serving
        self._answers = answers
        self._readers: list[asyncio.Task[None]] = []
        self._arrived: dict[int, list[Any]] = {}
        self._ended: list[int] = []
        self._error: Exception | None = None
        self._unfinished = len(answers)
        self._news = asyncio.Event()

    def begin(self, generations: tuple[Generation, ...], request_id: str) -> None:
        """Start reading the sequences."""
        self._readers = [
            asyncio.create_task(self._read(index, generation, f"{request_id}-{index}"))
            for index, generation in enumerate(generations)
        ]

    async def __aenter__(self) -> "Run":
        return self

    async def __aexit__(self, *_: object) -> None:
        ending, stopped = [], []
        for reader, answer in zip(self._readers, self._answers, strict=True):
            if answer.finish_reason is None or answer.cut_short:
                reader.cancel()
                stopped.append(reader)
            else:  # the engine ends it by itself
                ending.append(reader)
        self._serving.forget(self, ending)
        await asyncio.gather(*stopped, return_exceptions=True)

    @property
    def size(self) -> int:
        """How many choices there are."""
        return len(self._answers)

    @property
    def scored(self) -> bool:
        """Whether they have log probabilities."""
        return isinstance(self._answers[0], ScoredAnswer)

    @property
    def tokens(self) -> int:
        """How many tokens were generated so far."""
        return sum(answer.tokens for answer in self._answers)

    def fail(self, error: Exception) -> None:
        """End the iteration with `error`."""
        self._error = error
        self._news.set()

    async def news(self) -> list[Piece]:
        """Return what is new, of all choices that have news, once there is some; none at the end.

        Raises:
            EngineError: the engine failed one of the sequences.

        """
        while self._unfinished:
            if pieces := self._take():
                return pieces
            if self._error is not None:
                raise self._error
            await self._news.wait()
            self._news.clear()
        return []

    def _take(self) -> list[Piece]:
        arrived, self._arrived = self._arrived, {}
        ended, self._ended = self._ended, []
        pieces = []
        for index, news in (*arrived.items(), *((index, None) for index in ended)):
            answer = self._answers[index]
            if answer.finish_reason is not None:
                continue  # told already; what comes after the end is not read
            text = answer.end() if news is None else answer.take(news)
            if answer.cut_short:
                self._readers[index].cancel()
            if answer.finish_reason is not None:
                self._unfinished -= 1
            if text or answer.finish_reason:
                scores = answer.scores() if isinstance(answer, ScoredAnswer) else ()
                pieces.append(Piece(index, text, answer.finish_reason, scores))
        return pieces

    async def _read(self, index: int, generation: Generation, request_id: str) -> None:
        def arrived(news: Sequence[Any]) -> None:
            if self._error is None:
                self._arrived.setdefault(index, []).extend(news)
                self._news.set()

        try:
            await self._serving.generate(generation, request_id, arrived)
        except Exception as error:  # noqa: BLE001 - raised where the pieces are read
            self.fail(error)
        else:
            self._ended.append(index)
            self._news.set()
