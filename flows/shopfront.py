"""The simulated shop as a live event source: its shoppers react to decisions read from the topic.

For trying a deployment: events are dated now and sent at a bounded pace; a tick waits for the
decisions of the former one, but not for ever, so a slow flow slows the shop and never stops it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from flows.kafka.admin import check_kafka
from flows.kafka.connection import connect
from flows.kafka.partitions import partition_of
from flows.settings import Settings
from flows.shop.plan import SEED
from flows.simulate.shop import Shop
from schemas.time import rfc3339

_LOG: Final = logging.getLogger(__name__)
_PATIENCE_S: Final = 5.0


def run_shop(
    settings: Settings,
    *,
    events_per_second: float,
    shoppers: int,
    days: int,
    stop: Callable[[], bool],
) -> int:
    """Play the shop on the configured topics until it closes or `stop` says so; events sent."""
    events_topic, decisions_topic = settings.topic("events"), settings.topic("decisions")
    partitions = check_kafka(settings.kafka, [events_topic, decisions_topic])
    producer = connect(KafkaProducer, settings.kafka, acks="all", linger_ms=5)
    # Trap: with the long-poll default an idle partition would hold up the busy ones.
    consumer = connect(
        KafkaConsumer,
        settings.kafka,
        group_id=None,
        auto_offset_reset="latest",
        fetch_max_wait_ms=50,
        isolation_level="read_committed",
    )
    decided_in = [TopicPartition(decisions_topic, p) for p in range(partitions[decisions_topic])]
    consumer.assign(decided_in)
    for topic_partition in decided_in:
        consumer.seek_to_end(topic_partition)
        consumer.position(topic_partition)
    # The catalogue of a live flow without files of its own is this seed's.
    shop = Shop(SEED, shoppers=shoppers, days=days)
    play = shop.play("live")
    sent = 0
    events: list[dict[str, Any]] | None = play.start()
    run = f"{time.time_ns() // 1_000_000:x}"
    while events is not None and not stop():
        awaited: dict[str, str] = {}
        began = time.monotonic()
        for event in events:
            # A second shop on the same topics is other visits: their events are no duplicates.
            identity = f"{run}-{event['event_id']}"
            if event["type"] == "decision_requested":
                awaited[identity] = event["event_id"]
            key = event["user_id"].encode()
            dated = {
                **event,
                "event_id": identity,
                "occurred_at": rfc3339(time.time_ns() // 1_000_000),
            }
            producer.send(
                events_topic,
                key=key,
                value=orjson.dumps(dated),
                partition=partition_of(key, partitions[events_topic]),
            )
            sent += 1
        producer.flush(timeout=30)
        decisions = _decisions(consumer, awaited, stop)
        if len(decisions) < len(awaited):
            _LOG.warning("%d of %d decisions came in time", len(decisions), len(awaited))
        pause = len(events) / events_per_second - (time.monotonic() - began)
        if pause > 0:
            time.sleep(pause)
        events = play.step(decisions)
    producer.close(timeout=30)
    consumer.close()
    return sent


def _decisions(
    consumer: Any, awaited: dict[str, str], stop: Callable[[], bool]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + _PATIENCE_S
    while len(found) < len(awaited) and time.monotonic() < deadline and not stop():
        for records in consumer.poll(timeout_ms=100, max_records=10_000).values():
            for record in records:
                decision = orjson.loads(record.value)
                asked = awaited.get(decision["trigger"]["event_id"])
                if asked is not None:
                    decision["trigger"]["event_id"] = asked
                    found.append(decision)
    return found
