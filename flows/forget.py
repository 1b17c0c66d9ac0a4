"""How is a person forgotten, from outside the flow? Ask it, await the receipt, clear what it left.

The request is an event like any other, so it takes its place in the order of the person's own. No
error and no log line here names whom it was about.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from flows.errors import DeliveryError, NextbestError
from flows.kafka.admin import check_kafka
from flows.kafka.connection import KafkaConnection, connect, unreachable
from flows.kafka.partitions import partition_of
from flows.redis.profiles import remove_served
from flows.settings import Settings
from schemas.time import rfc3339

_LONGEST_ID: Final = 256
_AFTER_THE_FIRST_S: Final = 2.0
_LOOK_EVERY_MS: Final = 200


class NoReceiptError(NextbestError):
    """Requests that were sent and not answered in time; they stay on the topic and will be."""


@dataclass
class Forgotten:
    """What became of one request; `place` is that of the id among those given."""

    place: int
    request_event_id: str
    receipts: list[dict[str, Any]] = field(default_factory=list)
    keys_removed: int | None = None

    @property
    def found(self) -> bool:
        """Whether the flow held anything."""
        return any(receipt["found"] for receipt in self.receipts)


def forget(
    settings: Settings,
    user_ids: Sequence[str],
    *,
    timeout_s: float,
    tombstones: Sequence[str] = (),
    now_ms: Callable[[], int],
) -> list[Forgotten]:
    """Have the flow erase each id, and clear Redis of what it did not know; in the order given.

    `tombstones` are further compacted topics, keyed by the user id, that get an empty record for
    each. Those of the flow itself hold nothing by person. Raises ValueError for an id that no event
    can have, NoReceiptError where the flow did not answer within `timeout_s`, DeliveryError where
    Kafka did not take the requests, ConnectorError where Kafka or Redis cannot be had.
    """
    for place, user_id in enumerate(user_ids, start=1):
        if not 1 <= len(user_id) <= _LONGEST_ID:
            raise ValueError(f"id number {place} has {len(user_id)} characters, expected 1 to 256")
    events, erasures = settings.topic("events"), settings.topic("erasures")
    partitions = check_kafka(settings.kafka, [events, erasures, *tombstones])
    forgotten = [
        Forgotten(place, f"erasure-{uuid.uuid4()}") for place in range(1, len(user_ids) + 1)
    ]
    with _from_now_on(settings.kafka, erasures, partitions=partitions[erasures]) as consumer:
        requests = [
            (
                user_id,
                orjson.dumps(
                    {
                        "event_id": asked.request_event_id,
                        "user_id": user_id,
                        "type": "erasure_requested",
                        "occurred_at": rfc3339(now_ms()),
                    }
                ),
            )
            for user_id, asked in zip(user_ids, forgotten, strict=True)
        ]
        _send(settings.kafka, events, requests, partitions=partitions[events])
        _await_receipts(consumer, forgotten, timeout_s=timeout_s)
    # After the receipt: a record of before it would only be written again.
    for topic in tombstones:
        empty = [(user_id, None) for user_id in user_ids]
        _send(settings.kafka, topic, empty, partitions=partitions[topic])
    if settings.redis is not None:
        for user_id, asked in zip(user_ids, forgotten, strict=True):
            asked.keys_removed = remove_served(
                settings.redis, user_id, prefix=settings.redis_prefix
            )
    return forgotten


def _send(
    connection: KafkaConnection,
    topic: str,
    values: Sequence[tuple[str, bytes | None]],
    *,
    partitions: int,
) -> None:
    producer: Any = connect(KafkaProducer, connection, acks="all", enable_idempotence=True)
    try:
        sent = []
        for user_id, value in values:
            key = user_id.encode()
            at = partition_of(key, partitions)
            sent.append(producer.send(topic, key=key, value=value, partition=at))
        producer.flush(timeout=30)
        for future in sent:
            future.get(timeout=5)
    except KafkaError as error:
        # The error may quote the record, and with it whom it is about: its class alone is said.
        raise DeliveryError(
            f"Kafka at {connection.bootstrap_servers} did not take the requests "
            f"({type(error).__name__}). Send them again: that is harmless"
        ) from None
    finally:
        producer.close(timeout=5)


@contextmanager
def _from_now_on(connection: KafkaConnection, topic: str, *, partitions: int) -> Iterator[Any]:
    """A consumer of what is written to a topic after this call."""
    consumer: Any = connect(
        KafkaConsumer,
        connection,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="latest",
        fetch_max_wait_ms=50,
        allow_auto_create_topics=False,
    )
    try:
        every = [TopicPartition(topic, partition) for partition in range(partitions)]
        consumer.assign(every)
        for topic_partition in every:
            consumer.seek_to_end(topic_partition)
            # Seeking is lazy: only now is the end asked for.
            consumer.position(topic_partition)
        yield consumer
    except (KafkaError, OSError) as error:
        raise unreachable(connection, error) from None
    finally:
        consumer.close(autocommit=False, timeout_ms=2_000)


def _await_receipts(
    consumer: Any,
    forgotten: Iterable[Forgotten],
    *,
    timeout_s: float,
) -> None:
    """Read receipts until each request has one, and then a little longer.

    A person with several linked ids gets one for each, and which there are only the flow knows.
    """
    asked = {one.request_event_id: one for one in forgotten}
    known: set[str] = set()
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        polled = consumer.poll(timeout_ms=_LOOK_EVERY_MS)
        for record in (record for records in polled.values() for record in records):
            one = asked.get((record.key or b"").decode(errors="replace"))
            if one is None or record.value is None:
                continue
            receipt = orjson.loads(record.value)
            if receipt["receipt_id"] not in known:
                known.add(receipt["receipt_id"])
                one.receipts.append(receipt)
                if all(other.receipts for other in asked.values()):
                    deadline = min(deadline, time.monotonic() + _AFTER_THE_FIRST_S)
    open_ = [one.request_event_id for one in asked.values() if not one.receipts]
    if open_:
        raise NoReceiptError(
            f"no receipt for {len(open_)} of {len(asked)} requests within {timeout_s:.0f} s. They "
            "are on the topic and will be carried out when the flow reads them: is it running, and "
            f"has it caught up? Waiting for: {', '.join(open_)}"
        )
