"""One live flow for many questions: what `lived` did once, many tests look at."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from tests.flows.lived import Lived, live_through
from tests.servers.kafka import RunningKafka
from tests.servers.redis import RunningRedis


@pytest.fixture(scope="session")
def lived(
    kafka: RunningKafka,
    redis_server: RunningRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lived]:
    """What one live run took in and gave: good events, late ones, and every kind of bad input."""
    external = os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or os.environ.get("REDIS_URL")
    prefix = f"lived-{uuid.uuid4().hex[:8]}" if external else "lived"
    directory = tmp_path_factory.mktemp("lived")
    with live_through(kafka.bootstrap, redis_server.url, prefix, directory) as told:
        yield told
