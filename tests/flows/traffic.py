"""What happens in the shop of the live tests: events dated now, sent to the flow's events topic.

Requests, views, clicks on some content: the clicks that hit what was shown are what the flow learns
from. Everything but the dates is fixed by the number of the event.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import orjson
from kafka import KafkaProducer

from flows.kafka.partitions import partition_of
from schemas.time import rfc3339
from tests.flows.live_flow import PARTITIONS, LiveFlow
from tests.kafka_topics import MIB

USERS = 61


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def sent_event(number: int, *, at_ms: int | None = None, **fields: Any) -> dict[str, Any]:
    """Event `number`: two requests, a view and a click in turn, of one user after another."""
    kind = ("decision_requested", "view", "decision_requested", "click")[number % 4]
    event: dict[str, Any] = {
        "event_id": f"e{number:05d}",
        "user_id": f"u{number * 7 % USERS:03d}",
        "type": kind,
        "occurred_at": rfc3339(now_ms() if at_ms is None else at_ms),
    }
    if kind == "decision_requested":
        event["placement"] = "home"
    else:
        event["content_id"] = f"p{number // 4 * 5 % 12}"
    return {**event, **fields}


class Traffic:
    """Sends events, keyed and partitioned by profile, and knows how many it sent."""

    def __init__(self, flow: LiveFlow) -> None:
        self._topic = flow.topic("events")
        self._producer: Any = KafkaProducer(
            bootstrap_servers=flow.bootstrap, linger_ms=2, max_request_size=20 * MIB
        )
        self.sent = 0
        self.requested: list[str] = []

    def send(
        self,
        value: dict[str, Any] | bytes,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        if isinstance(value, dict):
            key = str(value["user_id"]).encode() if key is None else key
            if value["type"] == "decision_requested":
                self.requested.append(str(value["event_id"]))
            value = orjson.dumps(value)
        self._producer.send(
            self._topic,
            value,
            key=key,
            headers=list(headers),
            partition=partition_of(key or b"", PARTITIONS),
        )
        self.sent += 1

    def flush(self) -> None:
        self._producer.flush(timeout=60)

    def close(self) -> None:
        self._producer.close(timeout=10)


class SteadyTraffic:
    """Sends events at a steady pace from a thread until it is closed."""

    def __init__(self, flow: LiveFlow, *, per_second: int) -> None:
        self.traffic = Traffic(flow)
        self._pause_s = 10 / per_second
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            for number in range(self.traffic.sent, self.traffic.sent + 10):
                self.traffic.send(sent_event(number))
            due += self._pause_s
            self._ended.wait(max(0.0, due - time.monotonic()))
        self.traffic.flush()

    def close(self) -> None:
        """Send no more; everything sent is on the topic."""
        self._ended.set()
        self._thread.join(60)
        self.traffic.close()
