"""How is the flow doing: metrics, liveness and readiness, over HTTP.

`Telemetry` counts; `Health` knows when the loop last turned, what start has finished and when the
last snapshot was; `TelemetryServer` shows both at `/metrics`, `/livez`, `/readyz` and `/startupz`.
None of them looks at Kafka or Redis: a probe that fails because a neighbour is down makes an
orchestrator restart a flow that would have waited.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Literal, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from flows.errors import ConnectorError
from schemas.metrics import METRICS, CounterName, GaugeName, HistogramName, Metric, MetricName

_Labels = tuple[str, tuple[tuple[str, str], ...]]

TICK_WITHIN_S: Final = 30.0
"""The loop turns every 50 ms when idle; a snapshot of a large state may hold it up for seconds."""


def _metric(declared: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    name, text, labels = declared.full_name, declared.help, declared.labels
    if declared.kind == "counter":
        return Counter(name, text, labels, registry=registry)
    if declared.kind == "gauge":
        return Gauge(name, text, labels, registry=registry)
    return Histogram(name, text, labels, registry=registry, buckets=declared.buckets)


class Telemetry:
    """Typed counters, gauges and histograms over a registry of their own.

    The child of each label combination is looked up once and kept: the library's own look-up
    validates the labels each time and costs more than the count. A label that the metric does not
    declare raises ValueError on its first use.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        # A second series per counter that says when it began, which nothing here reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        ProcessCollector(registry=self.registry)
        self._metrics = {name: _metric(metric, self.registry) for name, metric in METRICS.items()}
        self._children: dict[_Labels, Counter | Gauge | Histogram] = {}

    def _child(
        self, name: MetricName, labels: dict[str, str]
    ) -> Counter | Gauge | Histogram:  # hot: a dict hit after the first call
        key = (name, tuple(labels.items()))
        child = self._children.get(key)
        if child is None:
            metric = self._metrics[name]
            if set(labels) != set(METRICS[name].labels):
                wanted = ", ".join(METRICS[name].labels) or "none"
                raise ValueError(f"{name}: labels {sorted(labels)} given, expected {wanted}")
            child = metric.labels(**labels) if labels else metric
            self._children[key] = child
        return child

    def count(self, name: CounterName, n: float = 1, **labels: str) -> None:
        """Add `n` (0 or more) to a counter."""
        cast(Counter, self._child(name, labels)).inc(n)

    def count_signed(
        self, name: Literal["reward_value_total"], value: float, **labels: str
    ) -> None:
        """Add the size of a value that may be negative, under sign=gain or sign=loss."""
        self.count(name, abs(value), **labels, sign="gain" if value >= 0 else "loss")

    def set(self, name: GaugeName, value: float, **labels: str) -> None:
        """Set a gauge."""
        cast(Gauge, self._child(name, labels)).set(value)

    def forget(self, name: GaugeName) -> None:
        """Drop every series of a gauge."""
        self._children = {key: c for key, c in self._children.items() if key[0] != name}
        self._metrics[name].clear()

    def watch(self, name: GaugeName, read: Callable[[], float], **labels: str) -> None:
        """Have a gauge call `read` at each scrape, from the server's thread."""
        cast(Gauge, self._child(name, labels)).set_function(read)

    def observe(self, name: HistogramName, value: float, **labels: str) -> None:
        """Add one observation to a histogram."""
        cast(Histogram, self._child(name, labels)).observe(value)

    def render(self) -> bytes:
        """Everything in the Prometheus text format."""
        return generate_latest(self.registry)


class NoTelemetry(Telemetry):
    """Counts nothing: for replay, the demo and tests that do not ask for counts."""

    def __init__(self) -> None:
        super().__init__(CollectorRegistry())

    def count(self, name: CounterName, n: float = 1, **labels: str) -> None:
        """Do nothing."""

    def count_signed(
        self, name: Literal["reward_value_total"], value: float, **labels: str
    ) -> None:
        """Do nothing."""

    def set(self, name: GaugeName, value: float, **labels: str) -> None:
        """Do nothing."""

    def watch(self, name: GaugeName, read: Callable[[], float], **labels: str) -> None:
        """Do nothing."""

    def observe(self, name: HistogramName, value: float, **labels: str) -> None:
        """Do nothing."""


class Health:
    """Whether this process is alive, started and ready; `now` is a monotonic clock in seconds.

    Alive: the loop turned within 30 s. Before its first turn the process is starting (a resume may
    take minutes), which `started` tells apart so that a startup probe can bound it. Ready: every
    step of start in `waits_for` was reported done, and the last snapshot is at most three intervals
    old; without recovery (`snapshot_every_s` None) snapshots do not count.
    """

    def __init__(
        self,
        now: Callable[[], float],
        *,
        snapshot_every_s: float | None,
        waits_for: tuple[str, ...] = ("partitions assigned", "parameters loaded"),
    ) -> None:
        self._now = now
        self._snapshot_every_s = snapshot_every_s
        self._waits_for = list(waits_for)
        self._ticked: float | None = None
        self._snapshot: float | None = None

    def tick(self) -> None:
        """The loop turned once more; called by the source, so it must stay this cheap."""
        self._ticked = self._now()
        if self._snapshot is None:
            self._snapshot = self._ticked

    def snapshot_done(self) -> None:
        """An epoch was closed."""
        self._snapshot = self._now()

    def done(self, step: str) -> None:
        """A step of start is finished; saying it twice is no mistake."""
        if step in self._waits_for:
            self._waits_for.remove(step)

    @property
    def started(self) -> bool:
        """Whether the loop has turned at all."""
        return self._ticked is not None

    def trouble_alive(self) -> str | None:
        """Why this process should be restarted, or None."""
        if self._ticked is None:
            return None
        still = self._now() - self._ticked
        return f"the loop has not turned for {still:.0f} s" if still > TICK_WITHIN_S else None

    def trouble_ready(self) -> str | None:
        """Why this process is not ready, or None."""
        if self._ticked is None or self._snapshot is None:
            return "starting: the loop has not turned yet"
        if waiting := list(self._waits_for):
            return f"waiting for: {', '.join(waiting)}"
        age = self._now() - self._snapshot
        if self._snapshot_every_s is not None and age > 3 * self._snapshot_every_s:
            return (
                f"the last snapshot is {age:.0f} s old, expected every {self._snapshot_every_s} s"
            )
        return self.trouble_alive()


class TelemetryServer:
    """Serves `/metrics`, `/livez`, `/readyz` and `/startupz` from a thread of its own.

    Port 0 takes a free port, which `port` then tells. Raises ConnectorError where the address
    cannot be bound.
    """

    def __init__(self, telemetry: Telemetry, health: Health, *, host: str, port: int) -> None:
        def pages() -> dict[str, Callable[[], tuple[int, bytes, str]]]:
            return {
                "/metrics": lambda: (200, telemetry.render(), CONTENT_TYPE_LATEST),
                "/livez": lambda: _answer(health.trouble_alive()),
                "/readyz": lambda: _answer(health.trouble_ready()),
                "/startupz": lambda: _answer(None if health.started else "starting"),
            }

        routes = pages()

        class Page(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def do_GET(self) -> None:
                page = routes.get(self.path.partition("?")[0])
                code, body, kind = page() if page else (404, b"not found\n", "text/plain")
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes come every few seconds: not worth a line each."""

        try:
            self._server = _Server((host, port), Page)
        except (OSError, OverflowError) as error:
            raise ConnectorError(
                f"telemetry cannot listen on {host}:{port}: {error}; "
                "choose another NEXTBEST_TELEMETRY_PORT (0 takes a free one)"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="telemetry", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and release the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The library turns SO_REUSEADDR on, which on Linux is harmless for a port in use by a live
    # listener: binding it still fails, as the error above wants.


def _answer(trouble: str | None) -> tuple[int, bytes, str]:
    return (503, f"{trouble}\n".encode(), "text/plain") if trouble else (200, b"ok\n", "text/plain")
