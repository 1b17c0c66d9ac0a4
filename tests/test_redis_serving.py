"""Does Redis end up with the newest of everything, whatever happens to it and to the flow?"""

import re
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast

import bytewax.operators as op
import orjson
import pytest
import redis
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main
from hypothesis import given
from hypothesis import strategies as st

from flows.errors import RecoveryError
from flows.redis.backlog import Backlog, BacklogError, decode_backlog
from flows.redis.serving import (
    ServingPartition,
    ServingSink,
    ServingWrite,
    decision_key,
    profile_key,
)
from flows.redis.writes import compare_and_set, guard_prefix, key_of
from flows.telemetry import Telemetry
from operators.pseudonyms import UNSHARED, Pseudonyms
from tests.servers.process import free_ports
from tests.servers.redis import RedisServer, RunningRedis

HOUR_MS = 3_600_000
DOCS = Path(__file__).parents[1] / "docs"


def a_write(
    profile: str = "u1",
    version: int = 1,
    value: bytes | None = b"{}",
    *,
    kind: Literal["decision", "profile"] = "profile",
    name: str = "",
    ttl_ms: int = HOUR_MS,
) -> ServingWrite:
    return ServingWrite(kind, name, profile, version, value, ttl_ms)


def eventually(holds: Callable[[], bool], *, within_s: float = 30.0) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.01)


@pytest.fixture
def client(redis_server: RunningRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def mortal(redis_server: RunningRedis, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test alone, that it may kill; asks for the shared one for its skip."""
    del redis_server
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    if server.running:
        server.stop()


def part_of(sink: ServingSink, state: bytes | None = None) -> ServingPartition:
    return sink.build_part("serve", "0", state)


def waiting(part: ServingPartition) -> list[ServingWrite]:
    """What a snapshot of the partition would write after a resume."""
    return decode_backlog(UNSHARED.open(part.snapshot().removeprefix(b"NBSS")))


def held(client: redis.Redis, key: str) -> dict[bytes, bytes]:
    return cast(dict[bytes, bytes], client.hgetall(key))


def counted(telemetry: Telemetry, name: str, **labels: str) -> float:
    return telemetry.registry.get_sample_value(f"nextbest_{name}", labels) or 0.0


# Compare and set


def test_an_older_version_never_replaces_a_newer(client: redis.Redis, topic_prefix: str) -> None:
    newest = a_write(version=10, value=b"new")
    assert compare_and_set(client, [newest], prefix=topic_prefix) == ["written"]
    older = a_write(version=9, value=b"old")
    assert compare_and_set(client, [older], prefix=topic_prefix) == ["stale"]
    assert held(client, key_of(newest, prefix=topic_prefix)) == {b"v": b"10", b"d": b"new"}


def test_the_same_version_twice_is_written_once(client: redis.Redis, topic_prefix: str) -> None:
    write = a_write(version=3, value=b"x")
    twice = [compare_and_set(client, [write], prefix=topic_prefix)[0] for _ in range(2)]
    assert twice == ["written", "same"]


def test_versions_compare_exactly_beyond_what_a_double_holds(
    client: redis.Redis, topic_prefix: str
) -> None:
    big = 2**62
    compare_and_set(client, [a_write(version=big + 1, value=b"new")], prefix=topic_prefix)
    assert compare_and_set(client, [a_write(version=big)], prefix=topic_prefix) == ["stale"]


def test_an_erased_profile_is_not_resurrected_by_an_older_write(
    client: redis.Redis, topic_prefix: str
) -> None:
    compare_and_set(client, [a_write(version=5, value=b"personal")], prefix=topic_prefix)
    erase = a_write(version=6, value=None)
    assert compare_and_set(client, [erase], prefix=topic_prefix) == ["written"]
    late = [a_write(version=5, value=b"personal"), a_write("u2", version=1)]
    assert compare_and_set(client, late, prefix=topic_prefix) == ["stale", "written"]
    assert not client.exists(profile_key("u1", prefix=topic_prefix))
    (guard,) = client.keys(f"{guard_prefix(prefix=topic_prefix)}*")
    assert client.get(guard) == b"6"
    assert 0 < client.pttl(guard) <= HOUR_MS
    assert compare_and_set(client, [a_write(version=7)], prefix=topic_prefix) == ["written"]


def test_a_delete_wins_over_a_value_of_the_same_version(
    client: redis.Redis, topic_prefix: str
) -> None:
    value, erase = a_write(version=5, value=b"x"), a_write(version=5, value=None)
    answers = [
        compare_and_set(client, [write], prefix=topic_prefix)[0]
        for write in (value, erase, value, erase)
    ]
    assert answers == ["written", "written", "same", "same"]
    assert not client.exists(profile_key("u1", prefix=topic_prefix))


def test_a_delete_leaves_no_trace_of_the_profile(client: redis.Redis, topic_prefix: str) -> None:
    decision = {"kind": "decision", "name": "home"}
    canary = "robin-5d2e"
    writes = [a_write(canary, 5, b"payload of 5d2e"), a_write(canary, 5, b"5d2e", **decision)]  # type: ignore[arg-type]
    deletes = [write._replace(version=6, value=None) for write in writes]
    compare_and_set(client, writes, prefix=topic_prefix, salt=b"secret")
    assert len(traces_of(client, "5d2e")) == 2
    for batch in (deletes, writes, deletes):
        compare_and_set(client, batch, prefix=topic_prefix, salt=b"secret")
    assert traces_of(client, "5d2e") == []
    guards = set(client.keys(f"{guard_prefix(prefix=topic_prefix)}*"))
    assert len(guards) == 2
    # Who does not know the salt cannot try ids one by one.
    compare_and_set(client, deletes, prefix=topic_prefix, salt=b"another")
    assert len(client.keys(f"{guard_prefix(prefix=topic_prefix)}*")) == 4


def test_a_delete_clears_what_the_first_release_left_of_an_erased_profile(
    client: redis.Redis, topic_prefix: str
) -> None:
    key = profile_key("u1", prefix=topic_prefix)
    client.hset(key, "v", "6")
    assert compare_and_set(client, [a_write(version=5)], prefix=topic_prefix) == ["stale"]
    erase = a_write(version=6, value=None)
    assert compare_and_set(client, [erase], prefix=topic_prefix) == ["written"]
    assert not client.exists(key)
    assert compare_and_set(client, [a_write(version=6)], prefix=topic_prefix) == ["same"]


def test_every_key_gets_its_time_to_live(client: redis.Redis, topic_prefix: str) -> None:
    write = a_write(kind="decision", name="home", ttl_ms=60_000)
    compare_and_set(client, [write], prefix=topic_prefix)
    left = client.pttl(decision_key("home", "u1", prefix=topic_prefix))
    assert 0 < left <= 60_000


def test_a_foreign_key_under_our_name_does_not_fail_its_neighbours(
    client: redis.Redis, topic_prefix: str
) -> None:
    client.rpush(profile_key("list", prefix=topic_prefix), "not ours")
    client.hset(profile_key("hash", prefix=topic_prefix), "v", "not a number")
    writes = [a_write("list"), a_write("hash"), a_write("u1")]
    answers = compare_and_set(client, writes, prefix=topic_prefix)
    assert answers == ["wrong_type", "wrong_type", "written"]


def test_a_redis_that_forgot_the_script_gets_it_again(
    client: redis.Redis, topic_prefix: str
) -> None:
    compare_and_set(client, [a_write(version=1)], prefix=topic_prefix)
    client.script_flush()
    assert compare_and_set(client, [a_write(version=2)], prefix=topic_prefix) == ["written"]


def traces_of(client: redis.Redis, text: str) -> list[bytes]:
    """Every key of the server whose name or value, of whatever type, holds the text."""
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    return [
        key
        for key in client.scan_iter(count=1_000)
        if text in repr((key, readers[cast(bytes, client.type(key))](key)))
    ]


# The backlog


def test_the_backlog_keeps_the_newest_write_of_a_key() -> None:
    backlog = Backlog()
    for version in (1, 3, 2):
        backlog.offer(a_write(version=version, value=b"%d" % version), now=0.0)
    assert decode_backlog(backlog.encode(now=0.0)) == [a_write(version=3, value=b"3")]


def test_a_full_backlog_drops_the_oldest_value_and_never_a_delete() -> None:
    backlog = Backlog(max_entries=2)
    dropped = [
        backlog.offer(write, now=0.0)
        for write in (a_write("gone", 1, None), a_write("a"), a_write("b"), a_write("c"))
    ]
    assert dropped == [0, 0, 0, 1]
    kept = [write.profile_id for write in decode_backlog(backlog.encode(now=0.0))]
    assert kept == ["gone", "b", "c"]


def test_a_backlog_is_bounded_in_bytes() -> None:
    backlog = Backlog(max_bytes=10_000)
    for number in range(50):
        backlog.offer(a_write(f"u{number}", value=b"x" * 900), now=0.0)
    assert 0 < len(backlog) <= 10


def test_dropping_a_value_that_stood_for_an_unwritten_delete_leaves_the_delete() -> None:
    backlog = Backlog(max_entries=1)
    backlog.offer(a_write("u1", 6, None), now=0.0)
    backlog.offer(a_write("u1", 7, b"returned"), now=0.0)
    backlog.offer(a_write("u2", 1), now=0.0)
    assert decode_backlog(backlog.encode(now=0.0)) == [a_write("u1", 7, None), a_write("u2", 1)]


def test_waiting_shortens_a_values_time_to_live_but_not_a_deletes() -> None:
    backlog = Backlog()
    backlog.offer(a_write("u1", ttl_ms=5_000), now=100.0)
    backlog.offer(a_write("u2", ttl_ms=1_000), now=100.0)
    backlog.offer(a_write("u3", value=None, ttl_ms=5_000), now=100.0)
    left = {w.profile_id: w.ttl_ms for w in decode_backlog(backlog.encode(now=102.0))}
    assert left == {"u1": 3_000, "u2": 1, "u3": 5_000}


def test_a_write_is_forgotten_only_if_no_newer_one_took_its_place() -> None:
    backlog = Backlog()
    backlog.offer(a_write(version=1), now=0.0)
    sent = backlog.peek(limit=10, limit_bytes=1_000)
    backlog.offer(a_write(version=2), now=0.0)
    backlog.done(sent)
    assert decode_backlog(backlog.encode(now=0.0)) == [a_write(version=2)]
    backlog.done(backlog.peek(limit=10, limit_bytes=1_000))
    assert len(backlog) == 0


def test_a_batch_is_bounded_but_never_empty() -> None:
    backlog = Backlog()
    for number in range(5):
        backlog.offer(a_write(f"u{number}", value=b"x" * 400), now=0.0)
    assert len(backlog.peek(limit=3, limit_bytes=10_000)) == 3
    assert len(backlog.peek(limit=10, limit_bytes=1_100)) == 2
    assert len(backlog.peek(limit=10, limit_bytes=1)) == 1


@given(
    st.lists(
        st.builds(
            a_write,
            st.sampled_from(["a", "b", "c"]),
            st.integers(0, 5),
            st.sampled_from([None, b"x"]),
        )
    )
)
def test_the_backlog_holds_for_each_key_what_redis_would_hold(writes: list[ServingWrite]) -> None:
    backlog = Backlog()
    model: dict[str, tuple[int, bool]] = {}
    for write in writes:
        backlog.offer(write, now=0.0)
        order = (write.version, write.value is None)
        model[write.profile_id] = max(order, model.get(write.profile_id, order))
    kept = decode_backlog(backlog.encode(now=0.0))
    assert {w.profile_id: (w.version, w.value is None) for w in kept} == model


@pytest.mark.parametrize("payload", [b"", b"NBS2\x90", b"NBS1", b"NBS1\x91\x01", b"\x80\x04K."])
def test_a_backlog_of_another_version_or_damaged_is_refused(payload: bytes) -> None:
    with pytest.raises(BacklogError):
        decode_backlog(payload)


def test_the_encoding_of_a_backlog_has_not_changed() -> None:
    backlog = Backlog()
    backlog.offer(a_write("u1", 7, b"{}", kind="decision", name="home", ttl_ms=9), now=0.0)
    golden = "4e42533191 96a86465636973696f6e a4686f6d65 a27531 07 c4027b7d 09"
    assert backlog.encode(now=0.0) == bytes.fromhex(golden)


# The sink


def test_what_is_handed_over_arrives_and_is_counted(
    redis_server: RunningRedis, client: redis.Redis, topic_prefix: str
) -> None:
    telemetry = Telemetry()
    sink = ServingSink(redis_server.url, partitions=1, prefix=topic_prefix, telemetry=telemetry)
    part = part_of(sink)
    part.write_batch([[a_write(f"u{n}", value=b"%d" % n) for n in range(1_000)]])
    part.close()
    values = [client.hget(profile_key(f"u{n}", prefix=topic_prefix), "d") for n in (0, 1, 500, 999)]
    assert values == [b"0", b"1", b"500", b"999"]
    assert counted(telemetry, "redis_writes_total", result="written") == 1_000
    assert counted(telemetry, "redis_backlog") == 0


def test_a_drained_sink_has_nothing_to_remember(
    redis_server: RunningRedis, topic_prefix: str
) -> None:
    sink = ServingSink(redis_server.url, partitions=1, prefix=topic_prefix, snapshot_wait_s=30)
    part = part_of(sink)
    part.write_batch([[a_write()]])
    assert waiting(part) == []
    part.close()


def test_what_waits_is_sealed_at_rest_and_opens_with_the_key_only(
    mortal: RedisServer, topic_prefix: str
) -> None:
    mortal.kill()
    key = Pseudonyms(b"a secret of sixteen or more")
    sink = ServingSink(
        mortal.url, partitions=1, prefix=topic_prefix, close_wait_s=0.0, pseudonyms=key
    )
    part = part_of(sink)
    part.write_batch([[a_write("canary", 5, b"payload of the canary")]])
    state = part.snapshot()
    part.close()
    assert b"canary" not in state
    with pytest.raises(RecoveryError, match="another key"):
        part_of(ServingSink(mortal.url, partitions=1, prefix=topic_prefix), state)
    resumed = part_of(
        ServingSink(
            mortal.url, partitions=1, prefix=topic_prefix, close_wait_s=0.0, pseudonyms=key
        ),
        state,
    )
    still = decode_backlog(key.open(resumed.snapshot().removeprefix(b"NBSS")))
    assert [write.value for write in still] == [b"payload of the canary"]
    resumed.close()


def test_redis_dying_neither_fails_nor_loses_anything(
    mortal: RedisServer, topic_prefix: str
) -> None:
    telemetry = Telemetry()
    sink = ServingSink(
        mortal.url, partitions=1, prefix=topic_prefix, telemetry=telemetry, snapshot_wait_s=30
    )
    part = part_of(sink)
    part.write_batch([[a_write("before")]])
    part.snapshot()
    mortal.kill()
    for number in range(500):
        part.write_batch([[a_write(f"u{number}")]])
    eventually(lambda: counted(telemetry, "redis_errors_total", reason="connection") > 0)
    left = waiting(part)  # comes back at once: no wait of 30 s while it is down
    assert {write.profile_id for write in left} == {f"u{n}" for n in range(500)}
    assert counted(telemetry, "redis_backlog") == 500
    mortal.start()
    eventually(lambda: counted(telemetry, "redis_backlog") == 0)
    with redis.Redis.from_url(mortal.url) as client:
        assert client.hget(profile_key("u499", prefix=topic_prefix), "d") == b"{}"
    part.close()


def test_what_a_crash_left_unwritten_is_written_after_the_resume(
    mortal: RedisServer, topic_prefix: str
) -> None:
    mortal.kill()
    first = ServingSink(mortal.url, partitions=1, prefix=topic_prefix, close_wait_s=0.0)
    part = part_of(first)
    part.write_batch([[a_write("u1", 5, b"left"), a_write("u2", 1, None)]])
    state = part.snapshot()
    part.close()
    mortal.start()
    with redis.Redis.from_url(mortal.url) as client:
        compare_and_set(client, [a_write("u1", 6, b"newer")], prefix=topic_prefix)
        second = ServingSink(mortal.url, partitions=1, prefix=topic_prefix, snapshot_wait_s=30)
        resumed = part_of(second, state)
        assert waiting(resumed) == []
        assert client.hget(profile_key("u1", prefix=topic_prefix), "d") == b"newer"
        assert not client.exists(profile_key("u2", prefix=topic_prefix))
        resumed.close()


def test_closing_without_redis_ends_within_its_bound_for_all_partitions_together(
    mortal: RedisServer, topic_prefix: str
) -> None:
    mortal.kill()
    sink = ServingSink(mortal.url, partitions=8, prefix=topic_prefix, close_wait_s=0.5)
    parts = [sink.build_part("serve", name, None) for name in sink.list_parts()]
    for part in parts:
        part.write_batch([[a_write()]])
    begun = time.monotonic()
    for part in parts:
        part.close()
    # Not a speed: eight bounds one after the other would be 4 s, and none at all for ever.
    assert time.monotonic() - begun < 3.5


def test_a_snapshot_of_many_partitions_waits_once_for_a_redis_that_hangs(topic_prefix: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}/0"
        sink = ServingSink(
            url, partitions=64, prefix=topic_prefix, snapshot_wait_s=0.2, close_wait_s=0.0
        )
        parts = [sink.build_part("serve", name, None) for name in sink.list_parts()]
        for part in parts:
            part.write_batch([[a_write()]])
        begun = time.monotonic()
        left = [len(waiting(part)) for part in parts]
        # Not a speed: 64 waits one after the other would be 12.8 s.
        assert time.monotonic() - begun < 6.0
        assert left == [1] * 64
        sink.close()


def test_writes_of_many_partitions_travel_together(
    redis_server: RunningRedis, client: redis.Redis, topic_prefix: str
) -> None:
    sink = ServingSink(redis_server.url, partitions=64, prefix=topic_prefix, snapshot_wait_s=30)
    parts = [sink.build_part("serve", name, None) for name in sink.list_parts()]

    def calls() -> int:
        return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])

    before = calls()
    for round_ in range(10):
        for number, part in enumerate(parts):
            part.write_batch([[a_write(f"u{number}", round_)]])
    for part in parts:
        part.close()
    assert client.hget(profile_key("u63", prefix=topic_prefix), "v") == b"9"
    assert calls() - before < 640 / 4


def test_the_bound_is_shared_by_all_partitions(topic_prefix: str) -> None:
    (port,) = free_ports(1)
    telemetry = Telemetry()
    sink = ServingSink(
        f"redis://127.0.0.1:{port}/0",
        partitions=4,
        prefix=topic_prefix,
        telemetry=telemetry,
        max_entries=40,
    )
    for name in sink.list_parts():
        part = sink.build_part("serve", name, None)
        part.write_batch([[a_write(f"u{n}") for n in range(100)]])
    assert counted(telemetry, "redis_backlog") == 40
    assert counted(telemetry, "redis_writes_total", result="dropped") == 360
    sink.close()


def test_partitions_are_named_so_that_the_engine_sorts_them_as_numbers() -> None:
    sink = ServingSink("redis://localhost:6379/0", partitions=12)
    names = sink.list_parts()
    assert names == sorted(names)
    assert [int(name) for name in names] == list(range(12))
    assert sink.part_fn("007") == 7


def test_a_flow_aborted_while_redis_is_down_serves_everything_after_its_resume(
    redis_server: RunningRedis, client: redis.Redis, topic_prefix: str, tmp_path: Path
) -> None:
    recovery = tmp_path / "recovery"
    recovery.mkdir()
    init_db_dir(recovery, 1)  # type: ignore[no-untyped-call]
    items: list[Any] = [("0", [a_write(f"u{n}", n, b"%d" % n)]) for n in range(20)]
    items.insert(10, TestingSource.ABORT())

    def run(url: str, *, close_wait_s: float) -> None:
        sink = ServingSink(url, partitions=2, prefix=topic_prefix, close_wait_s=close_wait_s)
        flow = Dataflow("serving")
        op.output("serve", op.input("inp", flow, TestingSource(items)), sink)
        run_main(  # type: ignore[no-untyped-call]
            flow,
            epoch_interval=timedelta(0),
            recovery_config=RecoveryConfig(str(recovery)),  # type: ignore[no-untyped-call]
        )
        sink.close()

    # Nobody listens there: the first run can have written nothing.
    (port,) = free_ports(1)
    run(f"redis://127.0.0.1:{port}/0", close_wait_s=0.0)
    run(redis_server.url, close_wait_s=30.0)
    keys = [profile_key(f"u{n}", prefix=topic_prefix) for n in range(20)]
    assert [client.hget(key, "d") for key in keys] == [b"%d" % n for n in range(20)]


# What the documentation says


def test_the_python_reader_in_the_documentation_works(
    redis_server: RunningRedis, client: redis.Redis
) -> None:
    text = (DOCS / "redis.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    value = orjson.dumps({"items": [{"content_id": "c7"}], "expires_at": "2999-01-01T00:00:00Z"})
    write = a_write("docs-reader", 1, value, kind="decision", name="home")
    compare_and_set(client, [write])
    try:
        scope: dict[str, Any] = {}
        exec(snippet.replace("redis://localhost:6379/0", redis_server.url), scope)
        assert scope["next_best"]("home", "docs-reader") == ["c7"]
        assert scope["next_best"]("home", "nobody") == []
    finally:
        client.delete(key_of(write))


def test_the_documentation_names_the_keys_as_they_are() -> None:
    text = (DOCS / "redis.md").read_text()
    assert decision_key("{placement}", "{profile_id}") in text
    assert profile_key("{profile_id}") in text
