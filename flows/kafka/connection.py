"""How is a Kafka cluster reached, and what is said when it cannot be?

A connection is settings only; the clients are made here so that each failure to connect becomes one
`ConnectorError` that names the address and the cause. It knows nothing of topics.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeVar

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from flows.errors import ConnectorError

_Client = TypeVar("_Client")

CONNECT_WITHIN_S: Final = 10.0
"""A broker that does not answer within this is an error: a user is promised one within 15 s."""

_SECRETS: Final = frozenset({"sasl_plain_password", "ssl_password"})
_CAUSE_CHARACTERS: Final = 200

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]


@dataclass(frozen=True, kw_only=True, repr=False)
class KafkaConnection:
    """Where the brokers are and how to log in; `repr` masks the passwords.

    `bootstrap_servers` is a comma-separated list of host:port. Files are paths in PEM format.
    """

    bootstrap_servers: str
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_plain_username: str | None = None
    sasl_plain_password: str | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: str | None = None
    ssl_check_hostname: bool = True
    client_id: str = "nextbest"

    def __repr__(self) -> str:
        shown = (
            f"{field.name}={'***' if value and field.name in _SECRETS else repr(value)}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        )
        return f"KafkaConnection({', '.join(shown)})"

    def client_config(self) -> dict[str, Any]:
        """The settings that every kafka-python client takes."""
        config = {field.name: getattr(self, field.name) for field in fields(self)}
        config["bootstrap_servers"] = [s.strip() for s in self.bootstrap_servers.split(",")]
        return config | {
            # Trap: the default is 30 s, and a wrong password waits as long as a wrong address.
            "bootstrap_timeout_ms": int(CONNECT_WITHIN_S * 1000),
            # Trap: the default of 30 s made a consumer stay away long after its broker was back.
            "reconnect_backoff_max_ms": 1000,
        }


def connect(client: Callable[..., _Client], connection: KafkaConnection, **config: Any) -> _Client:
    """Make a kafka-python client that has spoken to a broker.

    Raises ConnectorError, naming the address and the cause, within about 10 s.
    """
    with _causes() as causes:
        try:
            return client(**{**connection.client_config(), **config})
        except (KafkaError, OSError, ValueError) as error:
            raise unreachable(connection, error, causes=causes) from error


@contextmanager
def admin_client(connection: KafkaConnection) -> Iterator[Any]:
    """A KafkaAdminClient for a few calls; a KafkaError inside becomes a ConnectorError.

    Look-ups go through this client and never through one that fetches: a parked fetch delays
    `end_offsets` and its like by up to the fetch's wait (500 ms by default).
    """
    admin = connect(KafkaAdminClient, connection)
    try:
        yield admin
    except (KafkaError, OSError) as error:
        raise unreachable(connection, error) from error
    finally:
        admin.close()


def unreachable(
    connection: KafkaConnection, error: Exception, *, causes: list[str] | None = None
) -> ConnectorError:
    """What to raise when a client of `connection` failed with `error`."""
    reason = (causes or [])[-1:] or [f"{type(error).__name__}: {error}"]
    return ConnectorError(
        f"Kafka at {connection.bootstrap_servers} ({connection.security_protocol}) cannot be used: "
        f"{reason[0][:_CAUSE_CHARACTERS]}. Is the address right, is a broker running there, and do "
        "the security settings match its listener?"
    )


class _Causes(logging.Handler):
    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        # "Bootstrap failed" only says that time ran out: whatever was logged before says why.
        if not message.startswith("Bootstrap failed"):
            self.messages.append(message)


@contextmanager
def _causes() -> Iterator[list[str]]:
    # Trap: kafka-python raises the same time-out for a closed port, a wrong password and an unknown
    # certificate authority; the true cause is only in its log.
    handler = _Causes()
    logger = logging.getLogger("kafka")
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)
