"""Do processes that share a Redis learn one model, and does each keep deciding without it?"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from flows.errors import ConnectorError
from flows.redis.parameters import RedisParameters, order_of, parameters_key
from flows.telemetry import Telemetry
from operators.parameters import Parameters, ParameterSet, parameter_set
from tests.servers.process import free_ports
from tests.servers.redis import RedisServer, RunningRedis


def a_set(
    counter: int = 1, *, incarnation: str = "2026a", model: str = "home", weight: float = 0.5
) -> ParameterSet:
    weights = np.zeros((1, 16), np.float32)
    weights[0, 3] = weight
    return parameter_set(
        model=model,
        incarnation=incarnation,
        counter=counter,
        decisions=100.0,
        examples=10,
        rewarded=1,
        learned_to_ms=1_767_225_600_000,
        heads=("click",),
        intercepts=np.zeros(1, np.float32),
        weights=weights,
        digest=f"{counter:08x}",
    )


def eventually(holds: Callable[[], bool], *, within_s: float = 30.0) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.01)


def counted(telemetry: Telemetry, name: str, **labels: str) -> float:
    return telemetry.registry.get_sample_value(f"nextbest_{name}", labels) or 0.0


def version_of(store: Parameters, model: str = "home") -> str | None:
    found = store.latest(model)
    return None if found is None else found.version


Open = Callable[..., RedisParameters]


@pytest.fixture
def opened(topic_prefix: str) -> Iterator[Open]:
    """Opens stores under this test's prefix, quick to poll, and closes them."""
    stores: list[RedisParameters] = []

    def open_one(url: str, *, telemetry: Telemetry | None = None) -> RedisParameters:
        stores.append(
            RedisParameters(
                url, models=("home",), prefix=topic_prefix, telemetry=telemetry, poll_s=0.01
            )
        )
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def mortal(redis_server: RunningRedis, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test alone, that it may kill; asks for the shared one for its skip."""
    del redis_server
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    if server.running:
        server.stop()


def test_a_published_set_is_seen_here_at_once_and_elsewhere_soon(
    redis_server: RunningRedis, opened: Open
) -> None:
    here, there = opened(redis_server.url), opened(redis_server.url)
    assert there.load_all() == ()
    published = a_set()
    here.publish(published)
    assert here.latest("home") is published
    eventually(lambda: there.latest("home") is not None)
    received = there.latest("home")
    assert received is not None
    assert received.version == published.version
    assert np.array_equal(received.weights, published.weights)


def test_a_new_process_has_the_sets_before_its_first_event(
    redis_server: RunningRedis, opened: Open
) -> None:
    first = opened(redis_server.url)
    first.publish(a_set(7))
    first.close()
    later = opened(redis_server.url)
    assert later.load_all() == ("home",)
    assert version_of(later) == a_set(7).version


def test_the_newest_of_many_is_what_the_others_end_up_with(
    redis_server: RunningRedis, opened: Open
) -> None:
    here, there = opened(redis_server.url), opened(redis_server.url)
    there.load_all()
    for counter in range(1, 101):
        here.publish(a_set(counter))
    eventually(lambda: version_of(there) == a_set(100).version)


def test_an_older_life_of_the_learner_never_replaces_a_newer(
    redis_server: RunningRedis, opened: Open
) -> None:
    telemetry = Telemetry()
    successor, zombie = opened(redis_server.url), opened(redis_server.url, telemetry=telemetry)
    successor.publish(a_set(1, incarnation="2026b"))
    successor.close()
    zombie.publish(a_set(999, incarnation="2026a"))
    eventually(lambda: counted(telemetry, "redis_errors_total", reason="stale_parameters") == 1)
    eventually(lambda: version_of(zombie) == a_set(1, incarnation="2026b").version)
    fresh = opened(redis_server.url)
    fresh.load_all()
    assert version_of(fresh) == a_set(1, incarnation="2026b").version


def test_a_new_life_starts_counting_again_and_wins(
    redis_server: RunningRedis, opened: Open
) -> None:
    first, second = opened(redis_server.url), opened(redis_server.url)
    first.publish(a_set(50, incarnation="2026a"))
    first.close()
    second.load_all()
    second.publish(a_set(1, incarnation="2026b"))
    assert version_of(second) == a_set(1, incarnation="2026b").version
    second.close()
    third = opened(redis_server.url)
    third.load_all()
    assert version_of(third) == a_set(1, incarnation="2026b").version


def test_an_older_set_published_here_is_refused_and_counted(
    redis_server: RunningRedis, opened: Open
) -> None:
    telemetry = Telemetry()
    store = opened(redis_server.url, telemetry=telemetry)
    store.publish(a_set(5))
    store.publish(a_set(4))
    assert version_of(store) == a_set(5).version
    assert counted(telemetry, "redis_errors_total", reason="stale_parameters") == 1


def test_an_unchanged_set_is_not_transferred_again(
    redis_server: RunningRedis, opened: Open, topic_prefix: str
) -> None:
    telemetry = Telemetry()
    here, there = opened(redis_server.url), opened(redis_server.url, telemetry=telemetry)
    here.publish(a_set(1))
    here.close()
    there.load_all()
    with redis.Redis.from_url(redis_server.url) as client:

        def polls() -> int:
            return int(client.info("commandstats")["cmdstat_hget"]["calls"])

        # The blob is replaced behind its version's back: whoever fetched it again would choke.
        client.hset(parameters_key("home", prefix=topic_prefix), "d", b"broken")
        before = polls()
        eventually(lambda: polls() > before + 5)
    assert counted(telemetry, "redis_errors_total", reason="damaged_parameters") == 0


def test_a_damaged_set_is_counted_once_and_the_last_good_one_stays(
    redis_server: RunningRedis, opened: Open, topic_prefix: str
) -> None:
    telemetry = Telemetry()
    here, there = opened(redis_server.url), opened(redis_server.url, telemetry=telemetry)
    here.publish(a_set(1))
    here.close()
    there.load_all()
    key = parameters_key("home", prefix=topic_prefix)
    with redis.Redis.from_url(redis_server.url) as client:
        client.hset(key, mapping={"v": "2026a.2", "d": b"NBP1 not zlib"})
        eventually(
            lambda: counted(telemetry, "redis_errors_total", reason="damaged_parameters") == 1
        )
        assert version_of(there) == a_set(1).version
        client.hset(key, mapping={"v": "2026a.3", "d": a_set(3).encoded})
        eventually(lambda: version_of(there) == a_set(3).version)
    assert counted(telemetry, "redis_errors_total", reason="damaged_parameters") == 1


def test_a_model_first_asked_for_later_is_looked_for_from_then_on(
    redis_server: RunningRedis, opened: Open
) -> None:
    here, there = opened(redis_server.url), opened(redis_server.url)
    there.load_all()
    here.publish(a_set(model="basket"))
    eventually(lambda: there.latest("basket") is not None)


def test_without_redis_the_last_set_stays_and_its_age_shows(
    mortal: RedisServer, opened: Open
) -> None:
    telemetry = Telemetry()
    here, there = opened(mortal.url), opened(mortal.url, telemetry=telemetry)
    there.load_all()
    here.publish(a_set(1))
    eventually(lambda: there.latest("home") is not None)
    mortal.kill()
    eventually(lambda: counted(telemetry, "redis_errors_total", reason="connection") > 0)
    assert version_of(there) == a_set(1).version
    eventually(lambda: counted(telemetry, "parameters_confirmed_age_seconds") > 0.05)
    assert counted(telemetry, "parameters_age_seconds", model="home") > 0
    here.publish(a_set(2))
    assert version_of(here) == a_set(2).version
    mortal.start()
    eventually(lambda: version_of(there) == a_set(2).version)


def test_a_redis_that_came_back_empty_is_given_the_newest_set_again(
    mortal: RedisServer, opened: Open
) -> None:
    here = opened(mortal.url)
    here.publish(a_set(1))
    late = opened(mortal.url)
    eventually(lambda: late.load_all() == ("home",))
    mortal.kill()
    mortal.start()
    newcomer = opened(mortal.url)
    newcomer.load_all()
    eventually(lambda: version_of(newcomer) == a_set(1).version)


def test_loading_from_an_unreachable_redis_names_it(opened: Open) -> None:
    (port,) = free_ports(1)
    with pytest.raises(ConnectorError, match=f"127.0.0.1:{port}"):
        opened(f"redis://:secret@127.0.0.1:{port}/0").load_all()


def test_closing_a_store_that_never_started_is_fine() -> None:
    RedisParameters("redis://localhost:6379/0").close()


@given(st.data())
def test_redis_orders_sets_as_this_program_does(
    redis_server: RunningRedis, data: st.DataObject
) -> None:
    lives = st.text(alphabet="0123456789abcXYZ.-", max_size=6)
    sets = [
        a_set(data.draw(st.integers(0, 12)), incarnation=data.draw(lives), model="order")
        for _ in range(3)
    ]
    with redis.Redis.from_url(redis_server.url) as client:
        prefix = "order-of-sets"
        client.delete(parameters_key("order", prefix=prefix))
        for each in sets:
            store = RedisParameters(redis_server.url, prefix=prefix, poll_s=0.01)
            store.publish(each)
            store.close()
        held = client.hget(parameters_key("order", prefix=prefix), "v")
        client.delete(parameters_key("order", prefix=prefix))
    newest = max(sets, key=order_of)
    assert held == f"{newest.incarnation}.{newest.counter}".encode()
