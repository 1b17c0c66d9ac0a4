"""What does a compacted topic hold now, and what has been written to it since?

Two halves. `Compacted` follows partition 0 of a topic: state is the newest record of every key, and
each `read` goes on to the end of what is committed. `Together` writes to several such topics in one
transaction, so that a reader sees all of it or nothing; a second writer of the same name ends the
first. Only partition 0 is used, however many the topic has: what is published is small, and one
partition gives it one order.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NamedTuple

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError

from flows.errors import ConnectorError, DeliveryError
from flows.kafka.connection import KafkaConnection, connect, unreachable
from flows.kafka.scan import Scanner

_PARTITION: Final = 0
_WITHIN_S: Final = 60.0
_MOST_BYTES: Final = 1 << 20

Headers = tuple[tuple[str, bytes], ...]


class Kept(NamedTuple):
    """The newest record of a key; `written_ms` is the topic's date of it."""

    value: bytes
    headers: Headers
    written_ms: int


class Compacted:
    """The newest record of every key of a topic, in the order in which they were last written.

    `read` and `reread` raise ConnectorError; the next call then connects anew and goes on where the
    last one came to. Not safe for two threads.
    """

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self.topic = topic
        self.newest: dict[bytes, Kept] = {}
        self._connection = connection
        self._position = 0
        self._scanner: Scanner | None = None

    def read(self) -> bool:
        """Read on to the end of what is committed; True where there was anything."""
        try:
            return self._read()
        except ConnectorError:
            self.close()
            raise
        except (KafkaError, OSError) as error:
            self.close()
            raise unreachable(self._connection, error) from error

    def reread(self) -> None:
        """Read everything anew: tombstones may be gone before a reader that was away saw them."""
        self._position = 0
        self.newest.clear()
        self.read()

    def close(self) -> None:
        """Disconnect; what was read stays."""
        scanner, self._scanner = self._scanner, None
        if scanner is not None:
            with suppress(KafkaError, OSError):
                scanner.close()

    def _read(self) -> bool:
        if self._scanner is None:
            self._scanner = Scanner(self._connection, self.topic)
        first, end = self._scanner.held([_PARTITION])[_PARTITION]
        if not self._position:
            self._position = first
        elif not first <= self._position <= end:
            # Another topic of that name, or one whose beginning was deleted.
            self._position = first
            self.newest.clear()
        if self._position == end:
            return False
        for _, records in self._scanner.scan({_PARTITION: (self._position, end)}):
            for record in records:
                self._position = record.offset + 1
                if record.key is None:
                    continue
                self.newest.pop(record.key, None)
                if record.value is not None:
                    self.newest[record.key] = Kept(
                        bytes(record.value), tuple(record.headers or ()), record.timestamp
                    )
        self._position = end
        return True


class Writing(NamedTuple):
    """One record to write; no value: a tombstone, which takes the key away."""

    topic: str
    key: bytes
    value: bytes | None
    headers: Headers = ()


class Together:
    """Writes records to partition 0 of their topics, all of them or none.

    `name` is the transactional id. Whoever opens it later ends this one: what it has written and
    not committed is dropped, and it can write no more. So what is read after opening is what the
    transaction is added to. Use it in a `with` statement. Raises ConnectorError.
    """

    def __init__(self, connection: KafkaConnection, *, name: str) -> None:
        self._connection = connection
        self._producer: Any = connect(
            KafkaProducer,
            connection,
            transactional_id=name,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            linger_ms=5,
            max_request_size=_MOST_BYTES + (1 << 16),
            request_timeout_ms=15_000,
            delivery_timeout_ms=int(_WITHIN_S * 500),
            # A writer that dies holds readers back by no more than this.
            transaction_timeout_ms=int(_WITHIN_S * 1000),
            allow_auto_create_topics=False,
            metrics_enabled=False,
            max_block_ms=20_000,
        )
        try:
            self._producer.init_transactions()
        except (KafkaError, OSError) as error:
            self._close()
            raise unreachable(connection, error) from error

    def __enter__(self) -> Together:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def write(self, records: Iterable[Writing]) -> None:
        """Write and commit.

        Raises DeliveryError: nothing of it is seen then, unless the message says that it may be.
        """
        try:
            self._producer.begin_transaction()
            sent = [self._send(record) for record in records]
            self._producer.flush(timeout=_WITHIN_S)
            for future in sent:
                future.get(timeout=_WITHIN_S)
        except (KafkaError, AssertionError) as error:
            self._abort()
            raise DeliveryError(
                f"nothing was written to Kafka {self._connection.bootstrap_servers}: "
                f"{type(error).__name__}: {error}"
            ) from error
        except BaseException:
            self._abort()
            raise
        self._commit()

    def _send(self, record: Writing) -> Any:
        try:
            return self._producer.send(
                record.topic,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
                partition=_PARTITION,
            )
        except MessageSizeTooLargeError as error:
            raise DeliveryError(
                f"nothing was written: {record.key.decode(errors='replace')} has "
                f"{len(record.value or b'')} bytes, at most {_MOST_BYTES} fit"
            ) from error

    def _commit(self) -> None:
        failed: list[BaseException] = []

        def commit() -> None:
            try:
                self._producer.commit_transaction()
            except BaseException as error:
                failed.append(error)

        # Trap: the client's commit waits for ever where the broker is gone.
        thread = threading.Thread(target=commit, name="commit", daemon=True)
        thread.start()
        thread.join(_WITHIN_S)
        if thread.is_alive() or failed:
            cause = f"{type(failed[0]).__name__}: {failed[0]}" if failed else "no answer"
            raise DeliveryError(
                f"Kafka {self._connection.bootstrap_servers} did not confirm the commit ({cause}): "
                "it may have been carried out or not; do the same once more"
            )

    def _abort(self) -> None:
        # Where this fails too the broker drops it, at the latest after the transaction's time-out.
        with suppress(Exception):
            self._producer.abort_transaction()

    def _close(self) -> None:
        with suppress(Exception):
            self._producer.close(timeout=2)
