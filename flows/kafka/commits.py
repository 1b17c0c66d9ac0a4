"""Where has the flow got to, for those who watch from outside?

Positions are committed to an ordinary consumer group by a thread of its own, newest value per
partition, so that lag exporters see the flow. State: positions not yet sent. The flow's own
position is in its snapshots; what is committed here is never read back as one. A commit that fails
is logged and the next one makes up for it: an older position is only a less precise one.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Final

from kafka import KafkaAdminClient, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError, NoError

from flows.errors import ConnectorError
from flows.kafka.connection import KafkaConnection, connect

_LOG: Final = logging.getLogger(__name__)
_PAUSE_AFTER_FAILURE_S: Final = 2.0
_PAUSE_WHEN_CLOSING_S: Final = 0.2


class OffsetCommitter:
    """Commits offsets of `topic` to `group`; `put` never waits. The group must have no members."""

    def __init__(self, connection: KafkaConnection, *, topic: str, group: str) -> None:
        self._connection = connection
        self._topic = topic
        self._group = group
        self._changed = threading.Condition()
        self._waiting: dict[int, int] = {}
        self._closing = False
        self._close_by = 0.0
        self._thread: threading.Thread | None = None

    def put(self, partition: int, offset: int) -> None:
        """Have the position of `partition` committed soon."""
        with self._changed:
            self._waiting[partition] = offset
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"commit {self._group}", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def close(self, *, timeout_s: float = 3.0) -> None:
        """Commit what waits, for at most `timeout_s`, and end the thread."""
        with self._changed:
            self._closing = True
            self._close_by = time.monotonic() + timeout_s
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        admin: Any = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    break
                taken, self._waiting = self._waiting, {}
            try:
                admin = admin or connect(KafkaAdminClient, self._connection)
                self._commit(admin, taken)
            except (KafkaError, ConnectorError, OSError) as error:
                _LOG.warning(
                    "offsets of %s not committed to %s: %s", self._topic, self._group, error
                )
                with self._changed:
                    self._waiting = taken | self._waiting
                    if self._closing and time.monotonic() > self._close_by:
                        break
                    # A cluster's first group has no coordinator for a second or so.
                    pause = _PAUSE_WHEN_CLOSING_S if self._closing else _PAUSE_AFTER_FAILURE_S
                    self._changed.wait(pause)
        if admin is not None:
            admin.close()

    def _commit(self, admin: Any, offsets: dict[int, int]) -> None:
        results = admin.alter_group_offsets(
            self._group,
            {
                TopicPartition(self._topic, partition): OffsetAndMetadata(offset, "", -1)
                for partition, offset in offsets.items()
            },
        )
        refused = {error for error in results.values() if error is not NoError}
        if refused:
            raise next(iter(refused))(f"group {self._group}")
