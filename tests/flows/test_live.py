"""The live flow on a real Kafka and a real Redis, as processes that are stopped and killed."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from pathlib import Path

import orjson
import pytest
import redis

from tests.flows.books import books_of, contradictions, count_of, state_against_topic
from tests.flows.live_flow import PARTITIONS, LiveFlow, Running, live_flow, read_to_the_end
from tests.flows.lived import LATE, REPEATED, Lived
from tests.flows.traffic import SteadyTraffic, Traffic, sent_event
from tests.kafka_topics import eventually
from tests.servers.kafka import RunningKafka
from tests.servers.process import free_ports
from tests.servers.redis import RedisServer, RunningRedis


def test_each_accepted_request_gives_one_decision_and_topic_state_and_redis_agree(
    lived: Lived,
) -> None:
    assert contradictions(lived.books, requested=lived.requested) == []
    assert len(lived.books.decisions) == len(lived.requested) - LATE
    assert len(lived.books.profiles) >= 60


def test_a_decision_is_drawn_from_learned_parameters_and_says_which(lived: Lived) -> None:
    versions = Counter(decision["model_version"] for decision in lived.books.decisions)
    learned = {version for version in versions if version != "prior"}
    assert learned
    assert "prior" in versions  # the first decisions, before anything was ever learned
    assert sum(lived.metrics["examples_learned_total"].values()) > 100


def test_redis_gives_a_plain_client_the_bytes_of_the_topic(lived: Lived) -> None:
    profile_id, last = next(iter(lived.books.last_decision.items()))
    with redis.Redis.from_url(str(lived.flow.redis_url)) as client:
        value = client.hget(f"{lived.flow.prefix}:decision:home:{profile_id}", "d")
        assert isinstance(value, bytes)
        assert orjson.loads(value) == last
        assert 0 < int(str(client.pttl(f"{lived.flow.prefix}:decision:home:{profile_id}"))) <= 6e5


def test_segment_changes_and_outcomes_are_written(lived: Lived) -> None:
    directions = Counter((c["segment"], c["direction"]) for c in lived.books.changes)
    assert directions["recent", "entered"] >= 60
    assert directions["recent", "left"] >= 60
    assert directions["clicker", "entered"] >= 10
    assert "timer" in {change["cause"] for change in lived.books.changes}
    decided = {decision["decision_id"] for decision in lived.books.decisions}
    assert {outcome["decision_id"] for outcome in lived.books.outcomes} <= decided
    assert any(outcome["reward"] > 0 for outcome in lived.books.outcomes)


def test_each_bad_record_is_one_dead_letter_with_the_original_bytes_key_and_headers(
    lived: Lived,
) -> None:
    ours = ("__dlq.errors.", "__errors.", "record_id")
    found = Counter(
        (
            letter.value,
            letter.key,
            tuple((name, value) for name, value in letter.headers if not name.startswith(ours)),
            dict(letter.headers)["__errors.stage"].decode(),
            dict(letter.headers)["__errors.code"].decode(),
        )
        for letter in lived.books.dead
    )
    expected = Counter((b.value, b.key, b.headers, b.stage, b.code) for b in lived.bad)
    assert found == expected


def test_a_dead_letter_says_where_it_was_and_quotes_nothing(lived: Lived) -> None:
    topic = lived.flow.topic("events")
    places = set()
    for letter in lived.books.dead:
        headers = {name: value.decode(errors="replace") for name, value in letter.headers}
        assert headers["__dlq.errors.topic"] == topic
        assert 0 <= int(headers["__dlq.errors.partition"]) < PARTITIONS
        places.add((headers["__dlq.errors.partition"], headers["__dlq.errors.offset"]))
        assert "someone" not in headers["__dlq.errors.message"]
    assert len(places) == len(lived.bad)


def test_late_events_are_named_and_get_no_decision(lived: Lived) -> None:
    assert len(lived.books.late) == LATE
    late = {record["event_id"] for record in lived.books.late}
    assert not late & {d["trigger"]["event_id"] for d in lived.books.decisions}


def test_the_outcomes_of_events_sum_to_the_events_read(lived: Lived) -> None:
    outcomes = {
        label.removeprefix('{outcome="').removesuffix('"}'): int(n)
        for label, n in lived.metrics["events_total"].items()
    }
    assert outcomes["dead_letter"] == len(lived.bad)
    assert outcomes["late"] == LATE
    assert outcomes["duplicate"] == REPEATED
    read = sum(lived.metrics["events_read_total"].values())
    assert sum(outcomes.values()) == read == lived.sent - 1
    decided = sum(lived.metrics["decisions_total"].values())
    assert decided == len(lived.decisions_before_resume)


def test_probes_answer(lived: Lived) -> None:
    codes = {path: status for path, (status, _) in lived.probes.items()}
    assert codes == {
        "/livez": 200,
        "/readyz": 200,
        "/startupz": 200,
        "/metrics": 200,
        "/nothing": 404,
    }
    assert "nextbest_build_info" in lived.probes["/metrics"][1]


def test_a_second_run_on_the_same_recovery_store_is_refused(lived: Lived) -> None:
    code, said = lived.second_run
    assert code == 5
    assert "is running on recovery store" in said
    assert "Traceback" not in said


def test_sigterm_ends_a_run_with_a_snapshot_from_which_nothing_is_made_again(
    lived: Lived,
) -> None:
    assert (lived.exit_code, lived.resumed_exit_code) == (0, 0)
    assert lived.logs.count("ended cleanly") == 2
    assert "Traceback" not in lived.logs
    # The one event sent after the resume is the one event it read.
    assert sum(lived.resumed_metrics["events_read_total"].values()) == 1
    assert sum(lived.resumed_metrics["adopted_decisions_total"].values()) == 0


def drained(flow: LiveFlow, running: Running, traffic: Traffic) -> None:
    """Wait until every request sent stands on a topic, then stop the flow."""

    def all_there() -> bool:
        return count_of(flow, "decisions") + count_of(flow, "late") >= len(traffic.requested)

    running.await_ready()
    eventually(all_there, what="every request decided", timeout_s=90)
    # On a topic is not yet in the state: what was made again is not written again.
    eventually(lambda: read_to_the_end([running]), what="every event read")
    assert running.stop() == 0, running.said


def decided_more_than(flow: LiveFlow, number: int) -> bool:
    return count_of(flow, "decisions") > number


def test_over_four_kills_nothing_is_lost_or_made_twice_and_all_tell_the_same(
    kafka: RunningKafka, redis_server: RunningRedis, topic_prefix: str, tmp_path: Path
) -> None:
    with live_flow(
        kafka.bootstrap, prefix=topic_prefix, directory=tmp_path, redis_url=redis_server.url
    ) as flow:
        steady = SteadyTraffic(flow, per_second=450)
        try:
            for moment in range(4):
                before = count_of(flow, "decisions")
                running = flow.start()
                running.await_said("contents, process")
                if moment == 0:
                    # Before its first snapshot: the next run begins anew over a topic with records.
                    eventually(lambda: count_of(flow, "decisions") > 50, what="some decisions")
                elif moment == 1:
                    # Shortly after the resume, while the tail of the first run is made again.
                    running.await_ready()
                else:
                    aim = before + 500 * moment
                    eventually(partial(decided_more_than, flow, aim), what=f"{aim} decisions")
                running.kill()
            last = flow.start()
            last.await_ready()
            eventually(lambda: steady.traffic.sent >= 8_000, what="8,000 events")
            steady.close()
            drained(flow, last, steady.traffic)
        finally:
            steady.close()
        books = books_of(flow)
        assert contradictions(books, requested=steady.traffic.requested) == []
        late = {record["event_id"] for record in books.late}
        assert len(books.decisions) + len(late) == len(steady.traffic.requested)
        assert len(books.dead) == 0
        # The test has teeth only if something was there to be made again.
        assert any("recorded decisions may be adopted" in run.said for run in flow.started)


@pytest.mark.parametrize("broken", ["delivery", "adoption"])
def test_the_kill_test_notices_when_delivery_is_broken(
    kafka: RunningKafka,
    redis_server: RunningRedis,
    topic_prefix: str,
    tmp_path: Path,
    broken: str,
) -> None:
    with live_flow(
        kafka.bootstrap, prefix=topic_prefix, directory=tmp_path, redis_url=redis_server.url
    ) as flow:
        traffic = Traffic(flow)
        # Snapshots so rare that the kill comes before the first: all is made again.
        flow.settings["snapshot_every_s"] = 60
        env = {"SABOTAGE": broken, "SABOTAGE_PARAMETERS": "as learned"}
        running = flow.start(module="tests.flows.sabotage", env=env)
        for number in range(400):
            traffic.send(sent_event(number))
        traffic.flush()
        eventually(lambda: count_of(flow, "parameters") > 0, what="learned parameters")
        for number in range(400, 800):
            traffic.send(sent_event(number))
        traffic.flush()
        eventually(lambda: count_of(flow, "decisions") == 400, what="400 decisions")
        running.kill()
        env["SABOTAGE_PARAMETERS"] = "changed"
        drained(flow, flow.start(module="tests.flows.sabotage", env=env), traffic)
        traffic.close()
        books = books_of(flow)
        found = contradictions(books, requested=traffic.requested)
        if broken == "delivery":
            assert any("stands 2 times" in line for line in found)
        else:
            assert not any("times" in line or "has no decision" in line for line in found)
            assert any("disagree" in line for line in state_against_topic(books))


def test_decisions_go_on_without_redis_and_redis_catches_up(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path / "redis")
    server.start()
    try:
        with live_flow(
            kafka.bootstrap, prefix=topic_prefix, directory=tmp_path, redis_url=server.url
        ) as flow:
            traffic = Traffic(flow)
            running = flow.start()
            running.await_ready()
            for number in range(400):
                traffic.send(sent_event(number))
            traffic.flush()
            eventually(lambda: count_of(flow, "decisions") == 200, what="the first decisions")
            server.stop()
            for number in range(400, 800):
                traffic.send(sent_event(number))
            traffic.flush()
            eventually(lambda: count_of(flow, "decisions") == 400, what="decisions without Redis")
            assert running.get("/readyz")[0] == 200
            assert sum(running.metric("nextbest_redis_backlog").values()) > 0
            server.start()  # empty: it keeps nothing on disk
            eventually(
                lambda: sum(running.metric("nextbest_redis_backlog").values()) == 0,
                what="an empty backlog",
            )
            assert running.stop() == 0
            traffic.close()
            # Every profile had an event while Redis was away, so all of it is there again.
            assert contradictions(books_of(flow), requested=traffic.requested) == []
    finally:
        server.stop()


@pytest.mark.parametrize("missing", ["kafka", "redis"])
def test_a_server_that_cannot_be_reached_is_named_within_fifteen_seconds(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path, missing: str
) -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    with live_flow(
        kafka.bootstrap, prefix=topic_prefix, directory=tmp_path, redis_url=None
    ) as flow:
        if missing == "kafka":
            flow.settings["kafka_bootstrap_servers"] = address
        else:
            flow.settings["redis_url"] = f"redis://user:hidden@{address}/0"
        began = time.monotonic()
        running = flow.start()
        assert running.process.wait(60) == 3
        # The promise itself, and not a measurement: 15 s after the program has loaded.
        assert time.monotonic() - began < 25
        said = running.said
        assert address in said
        assert "nextbest: " in said
        assert "Traceback" not in said
        assert "hidden" not in said


def test_the_simulated_shop_is_served_live_and_reacts_to_what_it_is_shown(
    kafka: RunningKafka, redis_server: RunningRedis, topic_prefix: str, tmp_path: Path
) -> None:
    with live_flow(
        kafka.bootstrap,
        prefix=topic_prefix,
        directory=tmp_path,
        redis_url=redis_server.url,
        # Neither is given: the shop's own are taken.
        policy=None,
        catalogue=None,
    ) as flow:
        running = flow.start()
        running.await_ready()
        shop = flow.call("simulate", "--shoppers", "30", "--days", "1", "--rate", "5000")
        assert shop.returncode == 0, shop.stderr
        assert "decisions came in time" not in shop.stderr
        sent = int(shop.stdout.split()[0])
        eventually(
            lambda: sum(running.metric("nextbest_events_total").values()) >= sent,
            what=f"{sent} events accounted for",
        )
        outcomes = running.metric("nextbest_events_total")
        assert sum(outcomes.values()) == sent > 100
        assert not any("dead_letter" in label or "late" in label for label in outcomes)
        assert sum(running.metric("nextbest_impressions_total").values()) > 50
        assert running.stop() == 0
