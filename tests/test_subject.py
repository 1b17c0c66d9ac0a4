"""Is all that is held of a person shown and exported, and is no id said where it may not be?"""

from __future__ import annotations

import json
import logging
import os
import pickle
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import redis
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator
from pydantic import SecretStr
from rich.console import Console

from flows.errors import ConnectorError, RecoveryError
from flows.live import plan_of_settings
from flows.recovery import init_store
from flows.redis.profiles import read_served, remove_served
from flows.redis.writes import ServingWrite, compare_and_set
from flows.settings import Settings
from flows.subject import Subject, look_up
from flows.subject_cli import forget, profile, scrub
from flows.subject_export import SAYS, export
from flows.subject_view import print_subject
from operators.decide import Decide
from operators.identify import GroupBatch, IdentityGroup
from operators.ids import shard_key, shard_of
from operators.links import LINKS_KEY, LinkBatch, LinkGraph, group_of
from operators.parameters import LocalParameters
from operators.plan import Plan
from operators.profile import Profile
from operators.pseudonyms import Pseudonyms
from operators.shard import Shard
from operators.views import profile_view
from schemas.decisions import out_schema
from schemas.identity import Identity
from schemas.policy import Consent
from schemas.subject import ProfileHeld, SubjectExport
from schemas.time import MINUTE
from tests.flows.live_flow import LIVE
from tests.operators.builders import T0, arrived, nothing_recorded, request, shard_batch
from tests.operators.golden import golden_plan
from tests.servers.process import free_ports
from tests.servers.redis import RunningRedis

SECRET = "the secret of these tests"
SHARDS = 4
CANARY = "canary-7f3a"


def store_row(store: Path, step: str, key: str, state: bytes, *, epoch: int = 1) -> None:
    """A snapshot as the engine writes it."""
    if not store.exists():
        init_store(store, partitions=1)
    with closing(sqlite3.connect(store / "part-0.sqlite3")) as database:
        database.execute(
            "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)",
            (step, key, epoch, pickle.dumps(state)),
        )
        database.commit()


def lived(plan: Plan, user: str) -> Shard:
    """The shard of a user who left something in every part of a profile."""
    number = shard_of(user, shards=SHARDS)
    decide = Decide(plan, LocalParameters(), adopt=nothing_recorded)
    held = Shard(number, SHARDS, decide, pseudonyms=Pseudonyms(SECRET.encode()))
    who: dict[str, Any] = {"profile_id": user}
    events = [
        arrived("consent_changed", consent={"ads": True, "mail": False}, **who),
        arrived("profile_updated", attributes={"plan": "free", "age": 40}, source="crm", **who),
        arrived("view", content_id="c1", at=T0 + MINUTE, **who),
        arrived("view", content_id="c2", at=T0 + 2 * MINUTE, **who),
        arrived("buy", content_id="c1", value=12.5, at=T0 + 3 * MINUTE, **who),
        arrived(
            "feedback", feedback="hide", content_id="c3", tag="green", at=T0 + 4 * MINUTE, **who
        ),
        request(at=T0 + 5 * MINUTE, **who),
    ]
    (made,) = held.process(shard_batch(events, shard=number)).decisions
    shown = arrived("impression", decision_id=made.record["decision_id"], at=T0 + 6 * MINUTE, **who)
    held.process(shard_batch([shown], shard=number))
    return held


def settings_with(store: Path, **given: Any) -> Settings:
    return Settings(recovery_dir=store, pseudonym_key=SecretStr(SECRET), shards=SHARDS, **given)


def stored(tmp_path: Path, plan: Plan, user: str = CANARY) -> Path:
    store = tmp_path / "store"
    held = lived(plan, user)
    store_row(store, "nextbest.decide", shard_key(held.number), held.snapshot())
    return store


def found(tmp_path: Path, user: str = CANARY, **given: Any) -> Subject:
    plan = golden_plan()
    store = stored(tmp_path, plan, user)
    return look_up(settings_with(store, **given), plan, user, store=store)


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, held in value.items():
            yield from texts_of(key)
            yield from texts_of(held)
    elif isinstance(value, list | tuple):
        for held in value:
            yield from texts_of(held)


# The export


def test_the_export_says_every_field_of_a_profile() -> None:
    """A field that is added to the state has to be added to what a person is told."""
    assert set(SAYS) == {field.name for field in msgspec.structs.fields(Profile)}
    said = {name for names in SAYS.values() for name in names}
    assert said == set(ProfileHeld.model_fields)


def test_everything_held_is_in_the_export_and_has_its_shape(tmp_path: Path) -> None:
    subject = found(tmp_path)
    assert subject.stored is not None
    document = export(subject, now_ms=T0).model_dump(mode="json")
    Draft202012Validator(out_schema(SubjectExport)).validate(document)
    assert SubjectExport.model_validate(document).user_id == CANARY
    # Whatever text is in the state is in the export, wherever it stands there.
    exported = set(texts_of(document))
    profile = subject.stored.profile
    held = set(texts_of(msgspec.to_builtins(profile, builtin_types=(bytes,))))
    assert len(held) > 15
    assert held <= exported
    assert profile.pending[0].features
    kept = document["profile"]
    by_name = {signal["name"]: signal for signal in kept["signals"]}
    assert by_name["views"]["value"] == 2
    assert by_name["views"]["declared"]
    assert by_name["views"]["state"] is not None
    assert by_name["spent"]["value"] == 12.5
    assert set(kept["segments"]) >= {"active"}
    assert kept["segments"]["active"]["because"]
    assert kept["consent"]["mail"] == {
        "granted": False,
        "as_of": "2026-01-01T00:00:00Z",
        "by": "statement",
    }
    assert set(kept["hidden"]) == {"c:c3", "t:green"}
    (pending,) = kept["pending"]
    assert pending["items"][0]["shown_at"] is not None
    assert len(pending["features"]) * 4 == len(profile.pending[0].features)
    assert document["redis"] is None


def test_state_of_a_signal_that_the_policy_no_longer_has_is_exported_too(tmp_path: Path) -> None:
    store = stored(tmp_path, golden_plan())
    settings = settings_with(store, policy=LIVE / "policy.yaml", catalogue=LIVE / "catalogue.yaml")
    subject = look_up(settings, plan_of_settings(settings), CANARY, store=store)
    document = export(subject, now_ms=T0).model_dump(mode="json")
    orphans = [s for s in document["profile"]["signals"] if s["name"].startswith("(no signal")]
    assert orphans
    assert not any(signal["declared"] for signal in orphans)


def test_the_newest_snapshot_counts(tmp_path: Path) -> None:
    plan = golden_plan()
    store = stored(tmp_path, plan)
    held = lived(plan, CANARY)
    later = arrived("view", content_id="c5", profile_id=CANARY, at=T0 + 9 * MINUTE)
    held.process(shard_batch([later], shard=held.number))
    store_row(store, "nextbest.decide", shard_key(held.number), held.snapshot(), epoch=2)
    subject = look_up(settings_with(store), plan, CANARY, store=store)
    assert subject.view is not None
    assert subject.view["signals"]["views"] == 3


def test_linked_ids_lead_to_one_profile_and_are_exported(tmp_path: Path) -> None:
    plan, seal = golden_plan(), Pseudonyms(SECRET.encode())
    store = stored(tmp_path, plan)
    graph = LinkGraph(Identity(), seal)
    link = arrived(
        "identity_linked",
        profile_id=CANARY,
        raw_id=CANARY,
        anonymous_id="device-1",
    )
    graph.process(LinkBatch((0, 1), [(0, link)]))
    store_row(store, "nextbest.links", LINKS_KEY, graph.snapshot())
    anonymous = arrived("view", profile_id="device-2", raw_id="device-2", anonymous_id="device-2")
    group = IdentityGroup(group_of("device-2"), Identity(), Consent(), shards=SHARDS, seal=seal)
    batch = GroupBatch(group.number, (0, 2), [anonymous], [0], ((0, T0 - MINUTE),), 1, False)
    group.process(batch)
    store_row(store, "nextbest.identify", f"i{group.number}", group.snapshot())

    by_alias = look_up(settings_with(store), plan, "device-1", store=store)
    assert by_alias.profile_id == CANARY
    assert by_alias.view is not None
    links = export(by_alias, now_ms=T0).links
    assert links is not None
    assert links.canonical == CANARY
    assert set(links.aliases) == {"device-1"}
    unlinked = look_up(settings_with(store), plan, "device-2", store=store)
    assert unlinked.found
    assert unlinked.stored is None
    held = export(unlinked, now_ms=T0).links
    assert held is not None
    assert [event["type"] for event in held.recent_events] == ["view"]
    assert "recent events" in printed(unlinked)


# What is printed


def printed(subject: Subject) -> str:
    text = StringIO()
    print_subject(subject, console=Console(file=text, width=80))
    return text.getvalue()


def test_a_profile_is_printed_legibly_in_eighty_columns(tmp_path: Path) -> None:
    page = printed(found(tmp_path))
    assert max(map(len, page.splitlines())) <= 80
    words = " ".join(page.split())
    for told in (
        CANARY,
        "as of 2026-01-01 00:06 UTC",
        "from the snapshot of",
        "views 2",
        "spent 12.5",
        "active since 2026-01-01 00:02 UTC",
        "plan free",
        "ads granted",
        "mail refused",
        "content c3",
        "tag green",
        "home",
    ):
        assert told in words, page
    assert "Signals" in page
    assert "Predictions\n  none" in page


def test_a_profile_with_much_of_everything_is_cut(tmp_path: Path) -> None:
    subject = found(tmp_path)
    assert subject.stored is not None
    held = subject.stored.profile
    held.attributes["biography"] = "word " * 500
    held.hidden |= {f"c:content-{n}": T0 for n in range(100)}
    page = printed(subject)
    assert max(map(len, page.splitlines())) <= 80
    assert "…" in page
    assert "more" in page
    assert len(page.splitlines()) < 80


# Redis


@pytest.fixture
def client(redis_server: RunningRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def serve(client: redis.Redis, prefix: str, *users: str) -> None:
    writes = []
    for user in users:
        told = orjson.dumps({"profile_id": user, "last_decisions": {"gone": {}}})
        writes.append(ServingWrite("profile", "", user, 7, told, 60_000))
        for name in ("home", "gone"):
            record = orjson.dumps({"placement": name})
            writes.append(ServingWrite("decision", name, user, 7, record, 60_000))
    compare_and_set(client, writes, prefix=prefix)


def test_what_redis_serves_of_a_person_is_read(
    client: redis.Redis, redis_server: RunningRedis, topic_prefix: str
) -> None:
    serve(client, topic_prefix, "u1")
    served = read_served(redis_server.url, "u1", ["home", "side"], prefix=topic_prefix)
    assert set(served) == {"profile:u1", "decision:home:u1", "decision:gone:u1"}
    assert served["decision:home:u1"] == (7, {"placement": "home"})
    assert read_served(redis_server.url, "u2", ["home"], prefix=topic_prefix) == {}


@pytest.mark.parametrize("user", ["u1", "u*", "[a-z]?", "a\\b", "x:u1", "zażółć"])
def test_every_key_of_a_person_is_deleted_and_nobody_elses(
    client: redis.Redis, redis_server: RunningRedis, topic_prefix: str, user: str
) -> None:
    others = ["u2", "ux", f"{user}2", f"x:{user}", "decision:home:u1"]
    serve(client, topic_prefix, user, *others)
    assert remove_served(redis_server.url, user, prefix=topic_prefix) == 3
    assert read_served(redis_server.url, user, ["home"], prefix=topic_prefix) == {}
    for other in others:
        assert len(read_served(redis_server.url, other, ["home"], prefix=topic_prefix)) == 3


def test_without_a_store_the_profile_is_that_of_redis(
    client: redis.Redis, redis_server: RunningRedis, topic_prefix: str, tmp_path: Path
) -> None:
    plan = golden_plan()
    held = lived(plan, CANARY)
    kept = held.look(CANARY)
    assert kept is not None
    view = profile_view(kept, plan, held.decide.moment(kept.now_ms, since={}))
    write = ServingWrite("profile", "", CANARY, 9, orjson.dumps(view), 60_000)
    compare_and_set(client, [write], prefix=topic_prefix)
    settings = settings_with(
        tmp_path / "none", redis_url=redis_server.url, redis_prefix=topic_prefix
    )
    subject = look_up(settings, plan, CANARY, store=None)
    assert subject.view == view
    assert "from Redis" in printed(subject)
    document = export(subject, now_ms=T0).model_dump(mode="json")
    assert document["profile"] is None
    assert document["redis"][f"profile:{CANARY}"]["value"] == view


# Commands


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))


def run(command: Any, *words: str, **settings: object) -> Result:
    blank: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith("NEXTBEST_")
    }
    env = {f"NEXTBEST_{name.upper()}": str(value) for name, value in settings.items()}
    return CliRunner().invoke(command, list(words), env=blank | env)


FILES = {"policy": LIVE / "policy.yaml", "catalogue": LIVE / "catalogue.yaml"}


def test_the_command_prints_exports_and_writes(tmp_path: Path) -> None:
    store = stored(tmp_path, golden_plan())
    given = {"pseudonym_key": SECRET, "shards": SHARDS, "recovery_dir": store, **FILES}
    shown = run(profile, CANARY, **given)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith(CANARY)
    assert "kept under another policy" in shown.stderr
    exported = run(profile, CANARY, "--export", **given)
    document = json.loads(exported.stdout)
    Draft202012Validator(out_schema(SubjectExport)).validate(document)
    assert document["profile"]["profile_id"] == CANARY
    out = tmp_path / "out.json"
    written = run(profile, CANARY, "--json", "--out", str(out), **given)
    assert written.exit_code == 0
    assert json.loads(out.read_bytes())["profile"]["profile_id"] == CANARY
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    # A store elsewhere than the settings say, with its key beside it.
    (store / "pseudonym.key").write_text(SECRET)
    aside = run(profile, CANARY, "--store", str(store), shards=SHARDS, **FILES)
    assert aside.exit_code == 0, aside.output


def test_an_unknown_user_is_a_clear_answer_with_code_1(tmp_path: Path) -> None:
    store = stored(tmp_path, golden_plan(), "somebody")
    given = {"pseudonym_key": SECRET, "shards": SHARDS, "recovery_dir": store, **FILES}
    for user in (CANARY, f"{CANARY}-of-another-shard", f"{CANARY}3"):
        done = run(profile, user, **given)
        assert done.exit_code == 1
        assert "nothing is held of this user" in str(done.exception)
        assert CANARY not in done.output + repr(done.exception)


def failing(
    tmp_path: Path, redis_url: str
) -> Iterator[tuple[str, Any, list[str], dict[str, object]]]:
    """What can go wrong with a command about one person: a name, the command and its words."""
    store = stored(tmp_path, golden_plan())
    given: dict[str, object] = {
        "pseudonym_key": SECRET,
        "shards": SHARDS,
        "recovery_dir": store,
        **FILES,
    }
    (port,) = free_ports(1)
    yield "another key", profile, [CANARY], given | {"pseudonym_key": "another secret, as long"}
    yield "another number of shards", profile, [CANARY], given | {"shards": 1}
    yield "no Redis", profile, [CANARY], given | {"redis_url": f"redis://127.0.0.1:{port}/0"}
    yield "nowhere to look", profile, [CANARY], given | {"recovery_dir": tmp_path / "none"}
    yield "no store", profile, [CANARY, "--store", str(tmp_path)], given
    yield "out alone", profile, [CANARY, "--out", str(tmp_path / "x")], given
    yield "too long", forget, [CANARY * 100], given
    yield (
        "no Kafka",
        forget,
        [CANARY],
        given | {"kafka_bootstrap_servers": f"127.0.0.1:{port}"},
    )
    yield "odd value", profile, [CANARY], given | {"redis_url": redis_url, "redis_prefix": "odd"}
    damaged = tmp_path / "damaged"
    store_row(damaged, "nextbest.decide", shard_key(shard_of(CANARY, shards=SHARDS)), b"NBSH....")
    yield "damaged", profile, [CANARY], given | {"recovery_dir": damaged}


def test_no_error_and_no_log_line_names_a_person(
    tmp_path: Path,
    client: redis.Redis,
    redis_server: RunningRedis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    client.rpush(f"odd:profile:{CANARY}", "a list where a hash should be")
    tried = 0
    for name, command, words, given in failing(tmp_path, redis_server.url):
        done = run(command, *words, **given)
        assert done.exit_code != 0, name
        said = done.output + repr(done.exception) + str(done.exception)
        assert len(said) > 30, name
        assert CANARY not in said, name
        assert "Traceback" not in said, name
        tried += 1
    assert tried == 10
    assert CANARY not in caplog.text


def test_errors_are_of_the_kinds_that_have_exit_codes(tmp_path: Path) -> None:
    plan = golden_plan()
    store = stored(tmp_path, plan)
    fewer = settings_with(store).model_copy(update={"shards": 1})
    with pytest.raises(RecoveryError, match="is of 4 shards, and 1 are set"):
        look_up(fewer, plan, CANARY, store=store)
    (port,) = free_ports(1)
    with pytest.raises(ConnectorError, match="cannot be asked"):
        read_served(f"redis://127.0.0.1:{port}/0", CANARY, [])


def test_a_store_is_scrubbed_by_command(tmp_path: Path) -> None:
    store = stored(tmp_path, golden_plan())
    done = run(scrub, "--store", str(store))
    assert done.exit_code == 0
    assert "holds live state and nothing else" in done.output
    assert run(scrub, "--store", str(tmp_path)).exit_code == 2
