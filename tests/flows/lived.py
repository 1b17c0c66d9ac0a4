"""One live run from its first event to its resume, told as what can be looked at afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.flows.bad_input import BadRecord, bad_records
from tests.flows.books import Books, books_of, count_of
from tests.flows.live_flow import LiveFlow, Running, live_flow
from tests.flows.traffic import Traffic, now_ms, sent_event
from tests.kafka_topics import eventually

GOOD = 600
LATE = 5
REPEATED = 7


@dataclass(frozen=True)
class Lived:
    """`metrics` is a scrape of when every event was through; `books` are those of the end."""

    flow: LiveFlow
    sent: int
    requested: list[str]
    bad: list[BadRecord]
    books: Books
    metrics: dict[str, dict[str, float]]
    probes: dict[str, tuple[int, str]]
    exit_code: int
    second_run: tuple[int, str]
    resumed_exit_code: int
    resumed_metrics: dict[str, dict[str, float]]
    logs: str
    decisions_before_resume: list[dict[str, Any]]


@contextmanager
def live_through(bootstrap: str, redis_url: str, prefix: str, directory: Path) -> Iterator[Lived]:
    with live_flow(bootstrap, prefix=prefix, directory=directory, redis_url=redis_url) as flow:
        traffic = Traffic(flow)
        first = flow.start()
        first.await_ready()
        for number in range(GOOD):
            traffic.send(sent_event(number))
        bad = bad_records(now_ms())
        for record in bad:
            traffic.send(record.value, key=record.key, headers=record.headers)
        for number in range(REPEATED):
            traffic.send(sent_event(number))
        traffic.flush()
        _await_all_through(first, traffic)
        # Every shard knows by now that nothing of an hour ago is waited for any more.
        eventually(lambda: count_of(flow, "outcomes") > 0, what="the first outcomes")
        for number in range(GOOD, GOOD + LATE):
            event = sent_event(number, at_ms=now_ms() - 3_600_000)
            traffic.send(event | {"type": "decision_requested", "placement": "home"})
        # The flow has gone on after all of it, whatever partition it came from.
        for number in range(GOOD + LATE, 2 * GOOD):
            traffic.send(sent_event(number))
        traffic.flush()
        _await_all_through(first, traffic)
        metrics = _scrape(first)
        pages = ("/livez", "/readyz", "/startupz", "/metrics", "/nothing")
        probes = {path: first.get(path) for path in pages}
        second = flow.start()
        second_code = second.process.wait(30)
        exit_code = first.stop()
        before = books_of(flow).decisions
        resumed = flow.start()
        resumed.await_ready()
        more = sent_event(2 * GOOD)
        traffic.send(more)
        traffic.flush()
        eventually(
            lambda: sum(resumed.metric("nextbest_events_total").values()) >= 1,
            what="an event after the resume",
        )
        resumed_metrics = _scrape(resumed)
        resumed_exit_code = resumed.stop()
        traffic.close()
        yield Lived(
            flow=flow,
            sent=traffic.sent,
            requested=list(dict.fromkeys(traffic.requested)),
            bad=bad,
            books=books_of(flow),
            metrics=metrics,
            probes=probes,
            exit_code=exit_code,
            second_run=(second_code, second.said),
            resumed_exit_code=resumed_exit_code,
            resumed_metrics=resumed_metrics,
            logs=first.said + resumed.said,
            decisions_before_resume=before,
        )


def _await_all_through(running: Running, traffic: Traffic) -> None:
    def through() -> bool:
        return sum(running.metric("nextbest_events_total").values()) >= traffic.sent

    eventually(through, what=f"{traffic.sent} events accounted for")


def _scrape(running: Running) -> dict[str, dict[str, float]]:
    names = (
        "events_total",
        "events_read_total",
        "decisions_total",
        "adopted_decisions_total",
        "dead_letters_total",
        "examples_learned_total",
    )
    return {name: running.metric(f"nextbest_{name}") for name in names}
