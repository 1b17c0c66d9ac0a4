"""Kafka: the source of events, the sinks of what the flow says, and the topics themselves.

The only package that knows Kafka. Built on kafka-python, pinned exactly: the comments that begin
with "Trap" name measured behaviour of that version, and why the code there is as it is.
"""

from flows.kafka.admin import (
    TopicReport,
    TopicSpec,
    check_kafka,
    default_topics,
    ensure_topics,
    topic_partitions,
)
from flows.kafka.connection import KafkaConnection
from flows.kafka.export import export_range
from flows.kafka.partitions import partition_of
from flows.kafka.reader import NoProgress, SourceProgress
from flows.kafka.sink import KafkaSink, tail_group
from flows.kafka.source import KafkaSource
from flows.kafka.tail import read_compacted, read_tail
from flows.part_names import partition_key

__all__ = [
    "KafkaConnection",
    "KafkaSink",
    "KafkaSource",
    "NoProgress",
    "SourceProgress",
    "TopicReport",
    "TopicSpec",
    "check_kafka",
    "default_topics",
    "ensure_topics",
    "export_range",
    "partition_key",
    "partition_of",
    "read_compacted",
    "read_tail",
    "tail_group",
    "topic_partitions",
]
