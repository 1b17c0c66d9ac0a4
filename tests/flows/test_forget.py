"""Is a person forgotten everywhere, with a receipt, while the flow runs and after it stopped?"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer

from flows.errors import ConnectorError
from flows.forget import NoReceiptError, forget
from flows.kafka.partitions import partition_of
from flows.settings import Settings
from schemas.receipts import Receipt
from schemas.time import rfc3339
from tests.flows.live_flow import PARTITIONS, LiveFlow, live_flow, read_to_the_end
from tests.flows.traffic import Traffic, now_ms, sent_event
from tests.kafka_topics import eventually, make_topic, records_in
from tests.servers.kafka import RunningKafka
from tests.servers.redis import RunningRedis

patiently = partial(eventually, timeout_s=180.0)

# No other test leaves these texts anywhere: every key of the server is looked at.
CANARIES = ("wren-0e81b", "wren-1e81b", "wren-2e81b")
PAYLOAD = "payload-9c41"
TRACES = (b"wren-", b"e81b", PAYLOAD.encode())


def settings_of(flow: LiveFlow) -> Settings:
    return Settings(
        kafka_bootstrap_servers=flow.bootstrap,
        topic_prefix=f"{flow.prefix}.",
        redis_prefix=flow.prefix,
        redis_url=cast(Any, flow.redis_url),
    )


# From the command's side: a stand-in answers


@contextmanager
def answering(
    flow: LiveFlow, answers: Callable[[dict[str, Any]], list[dict[str, Any]]]
) -> Iterator[None]:
    """Something that reads requests and writes these receipts, as the flow would."""
    consumer: Any = KafkaConsumer(
        flow.topic("events"),
        bootstrap_servers=flow.bootstrap,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
    )
    producer: Any = KafkaProducer(bootstrap_servers=flow.bootstrap)
    ended = threading.Event()

    def answer() -> None:
        while not ended.is_set():
            for records in consumer.poll(timeout_ms=50).values():
                for record in records:
                    request = orjson.loads(record.value)
                    for number, receipt in enumerate(answers(request)):
                        producer.send(
                            flow.topic("erasures"),
                            key=request["event_id"].encode(),
                            value=orjson.dumps(receipt),
                            partition=number % PARTITIONS,
                        )

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10)
        consumer.close()
        producer.close(timeout=5)


def receipts_for(request: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        Receipt(
            receipt_id=f"{request['event_id']}-{number}",
            request_event_id=request["event_id"],
            erased_at=request["occurred_at"],
            found=number == 1,
        ).model_dump(mode="json")
        for number in range(2)
    ]


@pytest.fixture
def flow(kafka: RunningKafka, topic_prefix: str, tmp_path: Path) -> Iterator[LiveFlow]:
    with live_flow(
        kafka.bootstrap, prefix=topic_prefix, directory=tmp_path, redis_url=None
    ) as flow:
        yield flow


def test_each_request_is_an_event_of_its_own_and_gets_its_receipts(flow: LiveFlow) -> None:
    with answering(flow, receipts_for):
        done = forget(settings_of(flow), CANARIES, timeout_s=60, now_ms=now_ms)
    assert [one.place for one in done] == [1, 2, 3]
    # One for each id of a person: all that come within a moment of the first.
    assert [len(one.receipts) for one in done] == [2, 2, 2]
    assert all(one.found for one in done)
    requests = {
        record.key.decode(): (partition, orjson.loads(record.value))
        for partition, records in records_in(
            flow.bootstrap, flow.topic("events"), partitions=PARTITIONS
        ).items()
        for record in records
    }
    assert set(requests) == set(CANARIES)
    for user, one in zip(CANARIES, done, strict=True):
        partition, event = requests[user]
        assert partition == partition_of(user.encode(), PARTITIONS)
        assert event["event_id"] == one.request_event_id
        assert (event["type"], event["user_id"]) == ("erasure_requested", user)
        assert {receipt["request_event_id"] for receipt in one.receipts} == {one.request_event_id}


def test_a_flow_that_does_not_answer_is_reported_without_a_name(flow: LiveFlow) -> None:
    def only_the_first(request: dict[str, Any]) -> list[dict[str, Any]]:
        return receipts_for(request) if request["user_id"] == CANARIES[0] else []

    with (
        answering(flow, only_the_first),
        pytest.raises(NoReceiptError, match=r"no receipt for 2 of 3 requests") as raised,
    ):
        forget(settings_of(flow), CANARIES, timeout_s=5, now_ms=now_ms)
    assert "wren" not in str(raised.value)
    assert "erasure-" in str(raised.value)


def test_further_compacted_topics_get_a_tombstone(flow: LiveFlow) -> None:
    mine = make_topic(flow.bootstrap, flow.topic("mine"), config={"cleanup.policy": "compact"})
    with answering(flow, receipts_for):
        forget(settings_of(flow), CANARIES[:1], timeout_s=60, tombstones=[mine], now_ms=now_ms)
    (record,) = records_in(flow.bootstrap, mine)[0]
    assert (record.key, record.value) == (CANARIES[0].encode(), None)
    with pytest.raises(ConnectorError, match="no topic") as raised:
        forget(settings_of(flow), CANARIES, timeout_s=60, tombstones=["not-there"], now_ms=now_ms)
    assert "wren" not in str(raised.value)


# From end to end


def lived_through_erasure(flow: LiveFlow) -> str:
    """A flow in which three canaries did much among others, until they were forgotten; its log."""
    running = flow.start()
    running.await_ready()
    traffic = Traffic(flow)
    for round_ in range(6):
        for number in range(60):
            traffic.send(sent_event(60 * round_ + number))
        for place, canary in enumerate(CANARIES):
            for kind in ("view", "click", "profile_updated", "feedback", "decision_requested"):
                traffic.send(about(canary, kind, f"{round_}-{place}-{kind}"))
        traffic.flush()
        patiently(
            lambda: sum(running.metric("nextbest_events_total").values()) >= traffic.sent,
            what="every event accounted for",
        )
    client = redis.Redis.from_url(cast(str, flow.redis_url))
    patiently(
        lambda: all(client.exists(f"{flow.prefix}:profile:{canary}") for canary in CANARIES),
        what="the canaries in Redis",
    )
    # A decision for a placement that no policy knows any more.
    client.hset(f"{flow.prefix}:decision:withdrawn:{CANARIES[0]}", "v", "1")
    # What is looked for below is there now, and found.
    assert len(keys_with(client, TRACES)) >= 2 * len(CANARIES)
    held = flow.call("profile", CANARIES[0], "--export", timeout_s=180)
    assert held.returncode == 0, held.stderr
    document = orjson.loads(held.stdout)
    assert document["profile"]["profile_id"] == CANARIES[0]
    assert PAYLOAD in held.stdout

    done = flow.call("forget", *CANARIES, timeout_s=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("erased at") == len(CANARIES)
    # One at least: what the flow has not come to yet is deleted here as well.
    assert re.search(r"^[1-9]\d* left-over keys were deleted", done.stdout, re.MULTILINE)
    # The flow goes on, and so do its epochs; what it wrote before is superseded.
    for number in range(400, 460):
        traffic.send(sent_event(number))
    traffic.flush()
    patiently(lambda: read_to_the_end([running]), what="the end of the topics")
    patiently(lambda: keys_with(client, TRACES) == [], what="no trace in Redis")
    patiently(lambda: in_store(flow.store) == [], what="no trace in the store of a running flow")
    traffic.close()
    client.close()
    assert running.stop() == 0
    return running.said + done.stdout + done.stderr


def about(user: str, kind: str, number: str) -> dict[str, Any]:
    event: dict[str, Any] = {
        "event_id": f"{PAYLOAD}-{number}",
        "user_id": user,
        "type": kind,
        "occurred_at": rfc3339(now_ms()),
        "session_id": PAYLOAD,
        "properties": {"note": PAYLOAD},
    }
    extra: dict[str, dict[str, Any]] = {
        "profile_updated": {"attributes": {"plan": PAYLOAD, "name": PAYLOAD}},
        "feedback": {"feedback": "hide", "content_id": PAYLOAD},
        "decision_requested": {"placement": "home"},
    }
    return event | extra.get(kind, {"content_id": "p1"})


def keys_with(client: redis.Redis, texts: tuple[bytes, ...]) -> list[bytes]:
    """Every key of the whole server whose name or value holds one of the texts."""
    read: dict[bytes, Callable[[bytes], Any]] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    return [
        key
        for key in client.scan_iter(count=1_000)
        if any(
            repr(text)[2:-1] in repr((key, read[cast(bytes, client.type(key))](key)))
            for text in texts
        )
    ]


def in_store(store: Path) -> list[str]:
    """Every file of the store that holds one of the traces."""
    return [
        file.name
        for file in store.rglob("*")
        if file.is_file() and any(text in file.read_bytes() for text in TRACES)
    ]


def test_forgotten_is_forgotten_in_redis_in_the_store_and_in_the_logs(
    kafka: RunningKafka, redis_server: RunningRedis, topic_prefix: str, tmp_path: Path
) -> None:
    with live_flow(
        kafka.bootstrap,
        prefix=topic_prefix,
        directory=tmp_path,
        redis_url=redis_server.url,
        log_level="DEBUG",
    ) as flow:
        said = lived_through_erasure(flow)
        assert not any(text.decode() in said for text in TRACES)
        assert in_store(flow.store) == []
        # What the command waits for names nobody either.
        receipts = [
            record
            for records in records_in(
                flow.bootstrap, flow.topic("erasures"), partitions=PARTITIONS
            ).values()
            for record in records
        ]
        assert len(receipts) == len(CANARIES)
        for record in receipts:
            receipt = Receipt.model_validate_json(record.value)
            assert receipt.found
            assert record.key.decode() == receipt.request_event_id
            assert not any(text in record.key + record.value for text in TRACES)
        # The control: the same search finds those who were not forgotten where they may be found.
        client = redis.Redis.from_url(redis_server.url)
        assert keys_with(client, (b"u007",))
        client.close()

        unknown = flow.call("profile", CANARIES[0], timeout_s=180)
        assert unknown.returncode == 1
        assert CANARIES[0] not in unknown.stdout + unknown.stderr
        other = flow.call("profile", "u007", timeout_s=180)
        assert other.returncode == 0, other.stderr
        assert other.stdout.startswith("u007")
