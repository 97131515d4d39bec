"""The engine's thread: takes commands, lets the scheduler decide, the runner compute, and tells the sinks."""

import queue
import time
from collections.abc import Callable

import structlog

from ..errors import ApplianceError, EngineError, ShuttingDownError
from .decode_rate import DecodeRate
from .pulse import Pulse
from .runner import LoadedModel
from .scheduler import Scheduler
from .sequence import Sequence
from .wait_estimate import WaitEstimate

log = structlog.get_logger(__name__)

Command = Callable[[], None]


class Loop:
    """Runs a loaded model until told to stop.

    ``run`` owns the thread that calls it. ``submit``, ``cancel`` and ``stop`` are for any other; the
    public attributes are for these to read.
    """

    def __init__(self, model: LoadedModel, prefill_chunk: int, pulse: Pulse) -> None:
        self._runner = model.runner
        self._prefill_chunk = prefill_chunk
        self._pulse = pulse
        self._scheduler = Scheduler(model.runner.num_slots)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._is_stopping = False
        self._batch_limit = model.runner.num_slots
        self.wait_estimate = WaitEstimate()
        self.decode_rate = DecodeRate()
        self.death: EngineError | None = None

    def submit(self, sequence: Sequence) -> None:
        """Puts a sequence in line. A dead engine fails it at once."""
        self._commands.put(lambda: self._submit(sequence))

    def cancel(self, sequence: Sequence) -> None:
        """Ends a sequence before the next step, without a word; harmless if it has ended."""
        self._commands.put(lambda: self._drop(sequence))

    def stop(self) -> None:
        """Ends the loop before the next step; what still runs or waits fails with ShuttingDownError."""
        self._commands.put(self._stop)

    def run(self) -> None:
        """Works until ``stop``; sleeps while there is nothing to do. A dead engine stays to say so."""
        while not self._is_stopping:
            try:
                self._take_commands()
                self._step()
            except BaseException as error:  # panics of libraries written in Rust are no Exception
                self._die(error)
            self._pulse.beat()
        self._pulse.rest()

    def _take_commands(self) -> None:
        if not self._scheduler.has_work:
            self._pulse.rest()
            command = self._commands.get()
            self._pulse.beat()
            command()
        while not self._commands.empty():
            self._commands.get()()

    def _submit(self, sequence: Sequence) -> None:
        if self.death is not None:
            sequence.sink(self.death.anew())
        else:
            self._scheduler.submit(sequence)

    def _stop(self) -> None:
        self._is_stopping = True
        for sequence in self._scheduler.sequences():
            self._fail(sequence, ShuttingDownError())

    def _step(self) -> None:
        while (waiting := self._scheduler.next_waiting()) is not None:
            self._begin(*waiting)
        if (next_prefill := self._scheduler.next_prefill()) is not None:
            self._prefill(*next_prefill)
        if self._scheduler.decoding:
            running = list(self._scheduler.decoding.items())
            limit = self._batch_limit  # a batch that fails or ends moves it, and this step is cut already
            for start in range(0, len(running), limit):
                self._decode(running[start : start + limit])

    def _begin(self, free: list[int], sequence: Sequence) -> None:
        sequence.admitted_s = time.monotonic()
        try:
            admission = self._runner.begin(free, sequence.request)
        except Exception as error:  # whatever it is, it is this request's alone
            self._fail(sequence, error)
            return
        sequence.num_cached_tokens = admission.num_cached_tokens
        self._scheduler.admit(admission.slot, sequence)

    def _prefill(self, slot: int, sequence: Sequence) -> None:
        try:
            token_id = self._runner.prefill(slot, self._prefill_chunk)
        except Exception as error:  # whatever it is, it is this request's alone
            self._fail(sequence, error)
            return
        if token_id is not None:
            self._scheduler.prefilled(slot)
            self._accept(slot, sequence, token_id)

    def _decode(self, batch: list[tuple[int, Sequence]]) -> None:
        began_s = time.monotonic()
        try:
            token_ids = self._runner.decode([slot for slot, _ in batch])
        except Exception as error:
            self._decode_apart(batch, error)
            return
        if len(token_ids) != len(batch):  # nobody knows whose are missing
            for _, sequence in batch:
                self._fail(sequence, EngineError("The engine lost count of its requests. Send it again."))
            return
        chosen = [
            (*each, token_id) for each, token_id in zip(batch, token_ids, strict=True) if token_id is not None
        ]
        self.decode_rate.record(len(chosen), time.monotonic() - began_s)
        for slot, sequence, token_id in chosen:
            self._accept(slot, sequence, token_id)

    def _decode_apart(self, batch: list[tuple[int, Sequence]], error: Exception) -> None:
        """Tries the halves of a batch that failed, down to the one request whose fault it is.

        Where it was only too large, the next steps are made of halves at once, until a request ends.
        """
        if len(batch) == 1:
            self._fail(batch[0][1], error)
            return
        log.warning("decode_retried_apart", num_slots=len(batch), error=repr(error))
        middle = self._batch_limit = (len(batch) + 1) // 2
        self._decode(batch[:middle])
        self._decode(batch[middle:])

    # A sequence is told of its end before its slot is released: should that fail, nobody is left waiting.

    def _accept(self, slot: int, sequence: Sequence, token_id: int) -> None:
        for event in sequence.accept(token_id, self._runner.logprobs(slot)):
            sequence.sink(event)
        if sequence.is_finished:
            self.wait_estimate.record(time.monotonic() - sequence.admitted_s)
            self._drop(sequence)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        request_id = sequence.request.request_id
        if isinstance(error, ApplianceError):
            fault = error.__cause__ if isinstance(error, EngineError) else None
            log.warning(
                "request_failed",
                request_id=request_id,
                code=error.code,
                reason=error.message,
                **({"exc_info": fault} if fault else {}),
            )
            sequence.sink(error)
        else:
            log.error("request_failed", request_id=request_id, exc_info=error)
            sequence.sink(EngineError("The engine failed while it worked on this request. Send it again."))
        self._drop(sequence)

    def _drop(self, sequence: Sequence) -> None:
        slot = self._scheduler.remove(sequence)
        if slot is not None:
            self._batch_limit = self._scheduler.num_slots
            self._runner.release(slot)

    def _die(self, error: BaseException) -> None:
        """Gives up: nobody knows what state the runner is in."""
        self.death = EngineError("The engine has failed and must be restarted. See the server's log.")
        for sequence in self._scheduler.sequences():
            self._scheduler.remove(sequence)
            sequence.sink(self.death.anew())
        log.critical("engine_died", exc_info=error)
