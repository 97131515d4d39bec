"""The engine as the HTTP side sees it: load a model in its own thread, stream events, count who waits."""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from enum import Enum

import structlog

from ..errors import (
    ApplianceError,
    ContextLengthError,
    ModelLoadError,
    NotReadyError,
    OverloadedError,
    ShuttingDownError,
)
from .events import Event
from .generation import Generation
from .loop import Loop
from .pulse import Pulse
from .request import GenerationRequest
from .runner import LoadedModel

log = structlog.get_logger(__name__)

LOADING_RETRY_AFTER_S = 10
# A load that failed is not tried again sooner than this, however many ask: it may read gigabytes each time.
RELOAD_PAUSE_S = 10.0
JOIN_S = 10.0
POLL_S = 0.05


class EngineState(str, Enum):
    """What the engine is doing, in the words of ``/health``."""

    IDLE = "idle"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"
    STUCK = "stuck"
    DEAD = "dead"


class Engine:
    """Owns the thread in which a model is loaded and runs. Its methods belong to the event loop's thread."""

    def __init__(
        self, load: Callable[[], LoadedModel], *, max_queue: int, prefill_chunk: int, pulse: Pulse
    ) -> None:
        """``load`` is called in the engine's thread; ``max_queue`` requests may wait for a slot.

        The engine counts as stuck once ``pulse`` is overdue, which ``load`` may beat too.
        """
        self._load = load
        self._max_queue = max_queue
        self._prefill_chunk = prefill_chunk
        self._pulse = pulse
        self._state = EngineState.IDLE
        self._state_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._model: LoadedModel | None = None
        self._loop: Loop | None = None
        self._generations: set[Generation] = set()
        self._num_in_preparation = 0
        self._load_error: ApplianceError | None = None
        self._load_failed_s = -math.inf

    @property
    def state(self) -> EngineState:
        """What the engine is doing."""
        if self._loop and self._loop.death:
            return EngineState.DEAD
        return EngineState.STUCK if self._pulse.is_overdue else self._state

    @property
    def last_error(self) -> ApplianceError | None:
        """Why the last load failed, until one succeeds, or what the engine died of."""
        return self._loop.death if self._loop else self._load_error

    @property
    def model_if_ready(self) -> LoadedModel | None:
        """The model, once it is loaded."""
        return self._model

    @property
    def num_slots(self) -> int:
        """How many requests can run at once; 0 before the model is loaded."""
        return self._model.runner.num_slots if self._model else 0

    @property
    def num_running(self) -> int:
        """How many slots are taken: each choice of a request has its own."""
        return min(self._num_unfinished, self.num_slots)

    @property
    def num_waiting(self) -> int:
        """How many choices wait for a slot, and how many requests are on their way to the line."""
        return self._num_unfinished - self.num_running + self._num_in_preparation

    @property
    def tokens_per_s(self) -> float | None:
        """How fast the last decode steps were, all slots together; None before the first."""
        return self._loop.decode_rate.tokens_per_s if self._loop else None

    @property
    def has_room(self) -> bool:
        """Whether one more request would be taken, if only into the queue."""
        # Whoever wants several choices, or answers to several prompts, has come once.
        num_generations = sum(generation.num_unfinished > 0 for generation in self._generations)
        return num_generations + self._num_in_preparation < max(1, self.num_slots) + self._max_queue

    def retry_after_s(self) -> int:
        """Returns in how many seconds one request more should get a slot."""
        if self._loop is None:
            return LOADING_RETRY_AFTER_S
        return self._loop.wait_estimate.retry_after_s(self.num_waiting, self.num_slots)

    @contextlib.contextmanager
    def place_in_line(self, *, again: bool = False) -> Iterator[None]:
        """Holds a place for a request while its body is read and its prompt is made.

        Those take time and memory too: whoever would find the queue full is told before. Who has held a
        place for its body is not turned away when it comes ``again`` for its prompt.

        Raises:
            OverloadedError: there is no room.
            ShuttingDownError: the server takes nothing new.
            EngineError: the engine is dead.
        """
        self._require_open()
        if not again:
            self._require_room()
        self._num_in_preparation += 1
        try:
            yield
        finally:
            self._num_in_preparation -= 1

    def start_loading(self) -> None:
        """Begins to load the model, unless it is loaded, being loaded or just failed, or it closes."""
        has_just_failed = time.monotonic() - self._load_failed_s < RELOAD_PAUSE_S
        if self._state in (EngineState.IDLE, EngineState.FAILED) and not has_just_failed:
            self._state = EngineState.LOADING
            self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
            self._thread.start()

    async def wait_ready(self, timeout_s: float) -> LoadedModel:
        """Returns the model, loading it first if nobody has.

        Raises:
            NotReadyError: it was still loading after ``timeout_s``; loading goes on.
            ModelLoadError: it could not be loaded; a call after RELOAD_PAUSE_S tries again.
            ApplianceError: whatever else ``load`` raised of ours.
            ShuttingDownError: the server takes nothing new.
            EngineError: the engine is dead.
        """
        self.start_loading()
        await _until(lambda: self._state is not EngineState.LOADING, timeout_s)
        if self._state is EngineState.FAILED and self._load_error:
            error = self._load_error.anew()
            error.retry_after_s = error.retry_after_s or math.ceil(RELOAD_PAUSE_S)
            raise error
        return self._running()[0]

    async def generate(self, *requests: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Yields the events of what one client asks for at once, all choices' of each of its requests.

        Leaving the iterator early cancels them; an error of one is the end of all. Together they take the
        place of one in the queue.

        Raises:
            ContextLengthError: prompt and answer do not fit the context. This and the next three come
                before any event.
            OverloadedError: the queue is full.
            ShuttingDownError: the server takes nothing new, or stops before the request is done.
            NotReadyError: the model is not loaded.
            ApplianceError: the engine failed on this request.
        """
        model, loop = self._running()
        for request in requests:
            _require_context(request, model)
        self._require_room()
        generation = Generation(requests, model, loop)
        self._generations.add(generation)
        try:
            async with aclosing(generation.events()) as events:
                async for event in events:
                    yield event
        finally:
            self._generations.discard(generation)

    async def drain(self, timeout_s: float) -> None:
        """Takes nothing new and lets what runs or waits finish; what is left after ``timeout_s`` fails.

        It is told so at once, with ShuttingDownError, even in the middle of a step that takes long.
        """
        self._refuse_new_requests()
        await _until(lambda: not self._num_unfinished, timeout_s)
        self._fail_all()

    def close(self) -> None:
        """Stops the thread after the step it is in; requests that are left fail with ShuttingDownError.

        A load cannot be stopped: its thread ends by itself, or with the process. So does a step that hangs.
        """
        self._refuse_new_requests()
        if self._loop is not None and self._thread is not None:
            self._loop.stop()
            self._thread.join(JOIN_S)
        self._fail_all()

    @property
    def _num_unfinished(self) -> int:
        return sum(generation.num_unfinished for generation in self._generations)

    def _fail_all(self) -> None:
        for generation in self._generations:
            if generation.num_unfinished:
                generation.fail(ShuttingDownError())

    def _require_open(self) -> None:
        if self._loop is not None and self._loop.death is not None:
            raise self._loop.death.anew()
        if self._state is EngineState.DRAINING:
            raise ShuttingDownError()

    def _running(self) -> tuple[LoadedModel, Loop]:
        self._require_open()
        if self._model is None or self._loop is None:
            raise NotReadyError(
                "The model is still loading. Try again soon.", retry_after_s=LOADING_RETRY_AFTER_S
            )
        return self._model, self._loop

    def _require_room(self) -> None:
        if self.has_room:
            return
        waiting = f"{self.num_waiting} requests wait"
        raise OverloadedError(
            f"The model is loading and {waiting} for it. Try again later."
            if self._loop is None
            else f"The server is busy and {waiting} already. Try again later.",
            retry_after_s=self.retry_after_s(),
        )

    def _refuse_new_requests(self) -> None:
        with self._state_lock:
            self._state = EngineState.DRAINING

    def _end_loading(self, state: EngineState) -> bool:
        """Leaves LOADING for ``state``, unless the engine has been told to close meanwhile."""
        with self._state_lock:
            is_wanted = self._state is EngineState.LOADING
            if is_wanted:
                self._state = state
        return is_wanted

    def _work(self) -> None:
        """The thread: loads, then runs the loop."""
        try:
            model = self._load()
        except BaseException as error:  # panics of libraries written in Rust are no Exception
            self._pulse.rest()
            self._load_error = _explained(error)
            self._load_failed_s = time.monotonic()
            self._end_loading(EngineState.FAILED)
            return
        loop = self._loop = Loop(model, self._prefill_chunk, self._pulse)
        self._model = model
        if self._end_loading(EngineState.READY):
            loop.run()


async def _until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread brings it about
        await asyncio.sleep(POLL_S)


def _require_context(request: GenerationRequest, model: LoadedModel) -> None:
    num_prompt_tokens, max_context = len(request.token_ids), model.runner.max_context
    if num_prompt_tokens + request.max_tokens > max_context:
        raise ContextLengthError(
            f"{num_prompt_tokens} prompt tokens and {request.max_tokens} tokens to generate exceed "
            f"the context of {max_context} tokens. Shorten the prompt or ask for fewer tokens."
        )


def _explained(error: BaseException) -> ApplianceError:
    """Logs why a load failed, and returns what to tell clients."""
    if not isinstance(error, ApplianceError):
        log.error("model_load_failed", exc_info=error)
        return ModelLoadError("The model could not be loaded. See the server's log for why.")
    cause = repr(error.__cause__) if error.__cause__ else None
    log.error("model_load_failed", code=error.code, reason=error.message, cause=cause)
    # It is kept until the next load, and its traceback would keep half a model in memory.
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error
