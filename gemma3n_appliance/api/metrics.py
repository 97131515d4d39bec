"""``GET /metrics``: what Prometheus is told.

Names are OpenTelemetry's where its conventions for generative AI have one
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/), in Prometheus' spelling, and else vLLM's
with our own prefix.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from falcon.asgi import Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from .. import __version__
from ..engine.engine import Engine, EngineState
from ..engine.events import FinishReason, Started
from ..protocol.reading import Reading

# OpenTelemetry's own boundaries, by the names of what they are for.
_REQUEST_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0),
)
_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_BY_MODEL = ("gen_ai_operation_name", "gen_ai_request_model")


_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
_ROUTES = (
    *("/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/models", "/tokenize", "/detokenize"),
    *("/openapi.json", "/metrics", "/status", "/health", "/health/ready", "/page.css", "/page.js"),
)


class Spent(Protocol):
    """What a request for text came to; see `account.Account`."""

    operation: str

    @property
    def time_to_first_token_s(self) -> float | None:
        """How long its first token took."""
        ...


class Metrics:
    """All that is counted, and what is read when somebody asks."""

    def __init__(self, engine: Engine, model: str, sensors: Callable[[], Iterable[Reading]]) -> None:
        self._model = model
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Now(engine, model, sensors))
        counted, timed = self._counter, self._histogram
        self._requests = counted("http_requests", "Requests answered.", ("method", "route", "status"))
        self._prompt_tokens = counted("prompt_tokens", "Tokens of prompts.")
        self._queries = counted("prefix_cache_queries", "Tokens of prompts looked for in earlier ones.")
        self._hits = counted("prefix_cache_hits", "Tokens of prompts that earlier ones spared reading.")
        self._tokens = counted("generation_tokens", "Tokens generated.")
        self._ends = counted("request_success", "Answers that came to an end.", ("finished_reason",))
        self._queued = timed("request_queue_time", "In line for a slot.", _FIRST_TOKEN_S)
        self._prefill = timed("request_prefill_time", "Reading a prompt.", _FIRST_TOKEN_S)
        self._between = timed("inter_token_latency", "Between one token and the next.", _TOKEN_S)
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From a request's first byte to its reply's last.",
            (*_BY_MODEL, "error_type"),
            buckets=_REQUEST_S,
            registry=self.registry,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a request's body to its first token.",
            _BY_MODEL,
            buckets=_FIRST_TOKEN_S,
            registry=self.registry,
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Of each token of an answer after the first.",
            _BY_MODEL,
            buckets=_TOKEN_S,
            registry=self.registry,
        )

    def prompt_read(self, event: Started) -> None:
        """Counts a prompt whose first token is there."""
        self._queued.observe(event.queued_s)
        self._prefill.observe(event.prefill_s)
        self._prompt_tokens.inc(event.num_prompt_tokens)
        self._queries.inc(event.num_prompt_tokens)
        self._hits.inc(event.num_cached_tokens)

    def tokens_told(self, num_tokens: int, *, after_s: float | None = None) -> None:
        """Counts tokens that came together, so long after the one before; None where there was none."""
        self._tokens.inc(num_tokens)
        if after_s is not None:
            for _ in range(num_tokens):
                self._between.observe(after_s / num_tokens)

    def answer_ended(self, operation: str, reason: FinishReason, per_token_s: float | None) -> None:
        """Counts an answer at its end; its tokens after the first, if any, took so long each."""
        self._ends.labels(reason.value).inc()
        if per_token_s is not None:
            self._per_token.labels(operation, self._model).observe(per_token_s)

    def request_over(self, method: str, path: str, status: int | None) -> None:
        """Counts a request; nothing was answered where ``status`` is None.

        What a client makes up is one label: there is no end of that.
        """
        method = method if method in _METHODS else "other"
        self._requests.labels(method, _route(path), str(status or 0)).inc()

    def text_over(self, spent: Spent, duration_s: float, error: str) -> None:
        """Counts a request for text; ``error`` is what kind it ended with, or empty."""
        labels = (spent.operation, self._model)
        self._duration.labels(*labels, error).observe(duration_s)
        if spent.time_to_first_token_s is not None:
            self._first_token.labels(*labels).observe(spent.time_to_first_token_s)

    def _counter(self, name: str, what: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"gemma3n_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"gemma3n_{name}_seconds", what, buckets=buckets, registry=self.registry)


class _Now:
    """What is read at the moment that it is asked for."""

    def __init__(self, engine: Engine, model: str, sensors: Callable[[], Iterable[Reading]]) -> None:
        self._engine = engine
        self._model = model
        self._sensors = sensors

    def collect(self) -> Iterator[Metric]:
        """Yields the families, as prometheus_client wants them."""
        engine, model = self._engine, self._engine.model_if_ready
        told = {"version": __version__, "model_name": self._model, "device": model.device if model else ""}
        yield InfoMetricFamily("gemma3n", "What serves which model, on what.", told)
        states = GaugeMetricFamily("gemma3n_engine_state", "1 for the state it is in.", labels=["state"])
        for state in EngineState:
            states.add_metric([state.value], float(engine.state is state))
        yield states
        for name, what, value in (
            ("num_requests_running", "Slots that are taken.", engine.num_running),
            ("num_requests_waiting", "Answers that wait for a slot.", engine.num_waiting),
            ("num_slots", "Answers that can be generated at once.", engine.num_slots),
            ("decode_tokens_per_second", "How fast the last steps were.", engine.tokens_per_s or 0.0),
        ):
            yield GaugeMetricFamily(f"gemma3n_{name}", what, value=value)
        yield from self._read_sensors()

    def _read_sensors(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for reading in self._sensors():
            name = f"gemma3n_{reading.name}_{reading.unit}"
            labels = [] if reading.sensor is None else ["sensor"]
            family = families.setdefault(name, GaugeMetricFamily(name, reading.what, labels=labels))
            family.add_metric([] if reading.sensor is None else [reading.sensor], reading.value)
        yield from families.values()


class MetricsResource:
    """Tells Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answers in the form that is asked for: OpenMetrics', or Prometheus' own."""
        # In a thread: a sensor may sit behind a slow bus.
        resp.data, resp.content_type = await asyncio.to_thread(
            self._encoded, req.get_header("Accept", default="")
        )
        resp.set_header("Cache-Control", "no-store")

    def _encoded(self, accept: str) -> tuple[bytes, str]:
        try:
            encode, content_type = choose_encoder(accept)
            return encode(self._metrics.registry), content_type
        except (TypeError, ValueError):  # of a version that is no number
            return self._encoded("")


def _route(path: str) -> str:
    path = path.rstrip("/") or "/"
    if path in _ROUTES or path == "/":
        return path
    return "/v1/models/{id}" if path.startswith("/v1/models/") else "other"
