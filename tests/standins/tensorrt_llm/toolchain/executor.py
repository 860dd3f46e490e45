"""In-flight batching: in each iteration, every running request gets one token."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from .asks import Ask
from .choosing import Choice, Chooser, ends_with_word
from .orders import Order

_ITERATION_SECONDS: Final = 0.002
_ORDER_SECONDS: Final = 0.1
_NOTHING_LEFT: Final = -1


class Outlet(Protocol):
    """Where the answer to a request goes."""

    def send(self, choices: list[Choice], *, final: bool) -> None: ...


@dataclass
class Running:
    """A request that is worked on."""

    ask: Ask
    outlet: Outlet
    forced: list[int] | None
    """The tokens that a guide wants."""
    choices: list[Choice] = field(default_factory=list)
    cancelled: bool = False
    done: bool = False

    @property
    def answer(self) -> list[int]:
        return [choice.token for choice in self.choices]

    def next_forced(self) -> int | None:
        """Return the next token that the guide wants; None without a guide."""
        if self.forced is None:
            return None
        position = len(self.choices)
        return self.forced[position] if position < len(self.forced) else _NOTHING_LEFT

    def add(self, choice: Choice) -> None:
        """Send one more token."""
        self.choices.append(choice)
        self.done = len(self.choices) >= self.ask.max_new_tokens or ends_with_word(
            self.answer, self.ask.stop_words
        )
        self.outlet.send([choice], final=self.done)

    def end(self) -> None:
        """End without one more token."""
        self.done = True
        self.outlet.send([], final=True)


@dataclass(frozen=True)
class Capacity:
    """What the executor can hold."""

    requests: int
    blocks: int
    """Of the cache of keys and values."""
    tokens_per_block: int


@dataclass(frozen=True)
class Statistics:
    iteration: int = 0
    active: int = 0
    scheduled: int = 0
    context: int = 0
    context_tokens: int = 0
    used_blocks: int = 0


class Executor:
    """Works on requests, in a thread of its own.

    Args:
        chooser: gives the tokens.
        capacity: how much it works on at once; the others wait.
        order: returns what it is ordered to do now.
        crash: ends the server by the signal of this name.

    """

    def __init__(
        self,
        chooser: Chooser,
        capacity: Capacity,
        order: Callable[[], Order],
        crash: Callable[[str], None],
    ) -> None:
        self.capacity = capacity
        self.statistics = Statistics()
        self._chooser = chooser
        self._order = order
        self._crash = crash
        self._waiting: deque[Running] = deque()
        self._running: list[Running] = []
        self._changed = threading.Condition()
        self._closing = False
        self._iteration = 0
        self._thread = threading.Thread(target=self._work, name="executor", daemon=True)
        self._thread.start()

    def submit(self, running: Running) -> None:
        """Take a request."""
        with self._changed:
            self._waiting.append(running)
            self._changed.notify()

    def close(self) -> None:
        """End the thread; what is in flight is never answered."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        order, asked = self._order(), time.monotonic()
        while not self._closing:
            if not self._running or time.monotonic() - asked > _ORDER_SECONDS:
                order, asked = self._order(), time.monotonic()
            if signal_name := "SIGKILL" if order.get("oom") else order.get("crash"):
                self._crash(signal_name)
            dead = order.get("hang", False)
            if not dead and self._admit():
                self._iterate()
                time.sleep(order.get("slow", _ITERATION_SECONDS))
            else:
                self._measure()
                self._pause(dead)

    def _pause(self, dead: bool) -> None:
        with self._changed:
            if dead:
                self._changed.wait(_ORDER_SECONDS)
            else:
                self._changed.wait_for(lambda: self._closing or self._waiting, _ORDER_SECONDS)

    def _admit(self) -> bool:
        """Start on requests that wait, as far as there is room; return whether any is running."""
        with self._changed:
            while self._waiting and self._fits(self._waiting[0]):
                self._running.append(self._waiting.popleft())
            return bool(self._running)

    def _fits(self, one: Running) -> bool:
        if len(self._running) >= self.capacity.requests:
            return False
        free = self.capacity.blocks - sum(map(self._blocks, self._running))
        return self._blocks(one) <= free or not self._running

    def _blocks(self, one: Running) -> int:
        tokens = len(one.ask.prompt) + one.ask.max_new_tokens
        return -(-tokens // self.capacity.tokens_per_block)

    def _iterate(self) -> None:
        self._iteration += 1
        self._measure()
        for one in self._running:
            self._advance(one)
        self._running = [one for one in self._running if not one.done]
        if not self._running:
            self._measure()

    def _advance(self, one: Running) -> None:
        forced = one.next_forced()
        if one.cancelled or forced == _NOTHING_LEFT or not one.ask.max_new_tokens:
            one.end()
            return
        choice = self._chooser.choose(one.ask, one.answer, forced)
        if choice.token == one.ask.end_id:
            one.end()  # the end token is no part of the answer
        else:
            one.add(choice)

    def _measure(self) -> None:
        with self._changed:
            new = [one for one in self._running if not one.choices]
            self.statistics = Statistics(
                iteration=self._iteration,
                active=len(self._running) + len(self._waiting),
                scheduled=len(self._running),
                context=len(new),
                context_tokens=sum(len(one.ask.prompt) for one in new),
                used_blocks=sum(map(self._blocks, self._running)),
            )
