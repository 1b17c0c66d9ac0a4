"""What does the engine call a partition? One name for sources, sinks and what is sent to them."""

from __future__ import annotations

from typing import Final

_DIGITS: Final = 5


def partition_key(partition: int) -> str:
    """The engine's name of a partition: zero-padded, of the same width whatever the topic's size.

    Trap: the engine maps a partition index to a position in its *sorted* list of names, so "10"
    would come before "2" and records would land in the wrong partition. The width is fixed because
    the name is a key of the recovery store: a topic that grows from 9 to 11 partitions must find
    the state of partition 9 again.

    >>> partition_key(7)
    '00007'
    """
    return f"{partition:0{_DIGITS}d}"
