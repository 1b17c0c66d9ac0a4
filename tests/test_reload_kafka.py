"""Policy and catalogue over a real Kafka: published whole, adopted hot, refused, taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from rich.console import Console

from flows.errors import DeliveryError
from flows.kafka.compacted import Compacted, Together, Writing
from flows.load import ConfigError
from flows.publish_cli import Change, RefusedError, Topics, back_to, of_files, publish_version
from flows.published import CURRENT, NotWholeError
from flows.versions import Outcome, Versions
from operators.plan import Plan
from tests.kafka_topics import connection_to, eventually, make_topic, records_in
from tests.servers.kafka import KafkaBroker, RunningKafka

POLICY: dict[str, Any] = {
    "name": "reload",
    "signals": {"views": {"kind": "count", "events": "view", "within": "1h"}},
    "placements": {"home": {"slots": 2}},
}
EVERY_S = 0.05


class Desk:
    """The two topics of a test, and who publishes to them."""

    def __init__(self, bootstrap: str, prefix: str, directory: Path) -> None:
        self.connection = connection_to(bootstrap)
        self.bootstrap = bootstrap
        config = {"cleanup.policy": "compact"}
        self.topics = Topics(
            make_topic(bootstrap, f"{prefix}.policies", config=config),
            make_topic(bootstrap, f"{prefix}.catalogue", config=config),
        )
        self.said = StringIO()
        self._directory = directory

    def publish(
        self, ids: Sequence[str] | None = None, policy: dict[str, Any] | None = None
    ) -> Change:
        """Publish these contents and this policy; what is not given stays."""
        files: dict[str, Path | None] = {"policy": None, "catalogue": None}
        listed = None if ids is None else [{"content_id": name} for name in ids]
        for name, value in (("policy", policy), ("catalogue", listed)):
            if value is not None:
                path = files[name] = self._directory / f"{name}.yaml"
                path.write_text(json.dumps(value))  # which is YAML as well
        console = Console(file=self.said, width=200)
        choose = of_files(files["policy"], files["catalogue"], console=console)
        return publish_version(self.connection, self.topics, choose)

    def roll_back(self, digest: str) -> Change:
        return publish_version(self.connection, self.topics, back_to(digest))

    def produce(self, topic: str, key: bytes, value: bytes | None) -> None:
        """What somebody else writes, in no transaction."""
        producer = KafkaProducer(bootstrap_servers=self.bootstrap)
        try:
            producer.send(topic, key=key, value=value, partition=0).get(timeout=30)
        finally:
            producer.close(timeout=10)

    def reader(self, **options: Any) -> Versions:
        policies, catalogue = self.topics
        return Versions(
            self.connection, policies=policies, catalogue=catalogue, every_s=EVERY_S, **options
        )

    def started(self) -> Plan:
        """What a flow that starts now would run."""
        with self.reader() as versions:
            found = versions.initial()
        assert found is not None
        return found


class Following:
    """A reader that follows, as a running flow's does."""

    def __init__(self, versions: Versions) -> None:
        self.versions = versions
        self.outcomes: list[Outcome] = []

    @property
    def ids(self) -> tuple[str, ...]:
        return self.versions.newest().contents.ids

    def await_ids(self, *ids: str) -> None:
        eventually(lambda: self.ids == ids, what=f"contents {ids}")

    def await_outcomes(self, *outcomes: Outcome) -> None:
        eventually(lambda: self.outcomes == list(outcomes), what=f"outcomes {outcomes}")


@contextmanager
def following(desk: Desk) -> Iterator[Following]:
    outcomes: list[Outcome] = []
    with desk.reader(told=outcomes.append) as versions:
        plan = versions.initial()
        assert plan is not None
        versions.start(plan)
        found = Following(versions)
        found.outcomes = outcomes
        yield found


@pytest.fixture
def desk(kafka: RunningKafka, topic_prefix: str, tmp_path: Path) -> Desk:
    return Desk(kafka.bootstrap, topic_prefix, tmp_path)


def test_nothing_published_leaves_the_configured_files(desk: Desk) -> None:
    with desk.reader() as versions:
        assert versions.initial() is None


def test_a_publication_is_adopted_while_running_and_withdrawn_content_is_gone(desk: Desk) -> None:
    first = desk.publish(["a", "b", "c"], POLICY)
    with following(desk) as running:
        before = running.versions.newest()
        assert running.ids == ("a", "b", "c")
        assert (before.policy_digest, before.catalogue_version) == (
            first.policy_digest,
            first.catalogue_version,
        )
        second = desk.publish(["a", "c", "d"])
        assert (second.new, second.withdrawn, second.unchanged) == (("d",), ("b",), 2)
        assert second.policy_digest == first.policy_digest
        running.await_ids("a", "c", "d")
        after = running.versions.newest()
        assert after.catalogue_version == second.catalogue_version != before.catalogue_version
        running.await_outcomes("adopted")
        assert running.versions.trouble is None


def test_what_did_not_change_is_not_written_again(desk: Desk) -> None:
    desk.publish(["a", "b"], POLICY)
    again = desk.publish(["b", "a"], POLICY)
    assert again.written == 0
    catalogue = records_in(desk.bootstrap, desk.topics.catalogue)[0]
    assert [(record.key, record.value is None) for record in catalogue] == [
        (b"a", False),
        (b"b", False),
    ]
    third = desk.publish(["a"])
    assert third.written == 2  # a tombstone, and the catalogue that `current` names
    assert records_in(desk.bootstrap, desk.topics.catalogue)[0][-1].value is None


def test_what_is_wrong_is_refused_before_anything_is_written(desk: Desk) -> None:
    desk.publish(["a"], POLICY)
    wrong = POLICY | {"segments": {"x": {"when": {"signal": "nowhere", "at_least": 1}}}}
    before = records_in(desk.bootstrap, desk.topics.policies)[0]
    with pytest.raises(RefusedError, match="nothing was published"):
        desk.publish(["a", "b"], wrong)
    assert "nowhere" in desk.said.getvalue()
    assert len(records_in(desk.bootstrap, desk.topics.policies)[0]) == len(before)
    assert desk.started().contents.ids == ("a",)


def test_a_broken_policy_on_the_topic_is_refused_and_the_former_stays(desk: Desk) -> None:
    good = desk.publish(["a"], POLICY)
    with following(desk) as running:
        former = running.versions.newest()
        desk.produce(desk.topics.policies, b"bad", b"name: [")
        desk.produce(desk.topics.policies, CURRENT, b"bad")
        running.await_outcomes("refused")
        assert running.versions.newest() is former
        assert "bad" in (running.versions.trouble or "")
        desk.roll_back(good.policy_digest)
        running.await_outcomes("refused", "adopted")
        assert running.versions.newest() is former
        assert running.versions.trouble is None


def test_a_flow_does_not_start_on_a_broken_publication(desk: Desk) -> None:
    desk.publish(["a"], POLICY)
    desk.produce(desk.topics.policies, b"bad", b"name: [")
    desk.produce(desk.topics.policies, CURRENT, b"bad")
    with desk.reader() as versions, pytest.raises(ConfigError, match="--roll-back"):
        versions.initial()


def test_half_of_a_publication_is_never_seen_and_a_dead_publisher_published_nothing(
    desk: Desk,
) -> None:
    desk.publish(["a", "b"], POLICY)
    with following(desk) as running:
        former = running.versions.newest()
        dying = Together(desk.connection, name=f"nextbest-publish.{desk.topics.policies}")
        dying._producer.begin_transaction()
        for key, value in ((b"a", None), (b"x", b'{"content_id": "x"}')):
            sent = dying._producer.send(desk.topics.catalogue, key=key, value=value, partition=0)
            sent.get(timeout=30)
        assert desk.started().contents.ids == ("a", "b")
        assert running.versions.newest() is former
        # The next publisher ends it; what it has written is dropped.
        after = desk.publish(["b", "c"])
        assert (after.new, after.withdrawn) == (("c",), ("a",))
        running.await_ids("b", "c")
        running.await_outcomes("adopted")
        with pytest.raises(DeliveryError):
            dying.write([Writing(desk.topics.catalogue, b"y", b"{}")])
        dying._close()
        assert desk.started().contents.ids == ("b", "c")


def test_what_others_write_to_the_catalogue_is_not_adopted_until_it_is_published(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.publish(["a", "b"], POLICY)
    with following(desk) as running:
        former = running.versions.newest()
        desk.produce(desk.topics.catalogue, b"a", None)
        eventually(lambda: running.versions.trouble is not None, what="trouble")
        assert "publish again" in (running.versions.trouble or "")
        assert "former version stays" in caplog.text
        assert running.versions.newest() is former
        desk.publish(["b"], POLICY)
        running.await_ids("b")
        assert running.versions.trouble is None


def test_a_flow_does_not_start_on_half_a_catalogue(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.versions._WHOLE_WITHIN_S", 0.3)
    desk.publish(["a", "b"], POLICY)
    desk.produce(desk.topics.catalogue, b"a", None)
    with desk.reader() as versions, pytest.raises(NotWholeError, match="publish again"):
        versions.initial()


def test_a_roll_back_puts_a_former_policy_in_force_with_the_catalogue_of_now(desk: Desk) -> None:
    segments = {"viewer": {"when": {"signal": "views", "at_least": 1}}}
    first = desk.publish(["a", "b"], POLICY)
    second = desk.publish(["a"], POLICY | {"segments": segments})
    assert second.former_digest == first.policy_digest != second.policy_digest
    with following(desk) as running:
        assert list(running.versions.newest().policy.segments) == ["viewer"]
        back = desk.roll_back(first.policy_digest)
        assert (back.policy_digest, back.former_digest) == (
            first.policy_digest,
            second.policy_digest,
        )
        eventually(lambda: not running.versions.newest().policy.segments, what="the former policy")
        assert running.ids == ("a",)
        assert running.versions.newest().policy_digest == first.policy_digest
    assert desk.started().policy_digest == first.policy_digest


def test_a_roll_back_to_what_was_never_published_lists_what_was(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="there is none"):
        desk.roll_back("0123456789ab")
    known = desk.publish(["a"], POLICY)
    with pytest.raises(ConfigError, match=rf"(?s)there are:.*{known.policy_digest}.*in force"):
        desk.roll_back("0123456789ab")
    with pytest.raises(ConfigError, match="no policy current"):
        desk.roll_back("current")


def test_a_roll_back_that_does_not_fit_the_catalogue_of_now_is_refused(desk: Desk) -> None:
    home = {"slots": 1, "fallback": {"contents": ["a"]}}
    first = desk.publish(["a", "b"], POLICY | {"placements": {"home": home}})
    desk.publish(["b"], POLICY)
    with pytest.raises(ConfigError, match=r"(?s)does not fit.*'?a'?"):
        desk.roll_back(first.policy_digest)


def test_a_restart_takes_the_newest_also_what_could_not_be_adopted_hot(desk: Desk) -> None:
    first = desk.publish(["a", "b"], POLICY)
    more = POLICY | {"placements": {"home": {"slots": 2}, "banner": {"slots": 1}}}
    with following(desk) as running:
        second = desk.publish(["b"], more)
        assert second.restart == "placements that are new (banner)"
        running.await_outcomes("restart")
        assert "banner" in (running.versions.trouble or "")
        # The catalogue waits for no restart: what was withdrawn is gone all the same.
        assert running.ids == ("b",)
        assert running.versions.newest().policy_digest == first.policy_digest
    started = desk.started()
    assert started.policy_digest == second.policy_digest
    assert set(started.placements) == {"home", "banner"}


def test_a_reader_that_stumbles_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk.publish(["a"], POLICY)
    with following(desk) as running:
        with monkeypatch.context() as broken:
            broken.setattr("flows.versions.whole", lambda _policies, _catalogue: 1 / 0)
            desk.publish(["a", "b"])
            eventually(lambda: "cannot be followed" in caplog.text, what="the error in the log")
            assert running.ids == ("a",)
            assert "ZeroDivisionError" in (running.versions.trouble or "")
        desk.publish(["b"])
        running.await_ids("b")
        eventually(lambda: running.versions.trouble is None, what="no trouble any more")


def test_a_topic_made_anew_is_read_from_its_beginning(desk: Desk) -> None:
    desk.publish(["a", "b"], POLICY)
    held = Compacted(desk.connection, desk.topics.catalogue)
    held.read()
    held._position = 1_000  # where a topic of the same name, now gone, had come to
    assert held.read()
    assert sorted(held.newest) == [b"a", b"b"]
    held.close()


@pytest.fixture
def own_broker(kafka: RunningKafka, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker that a test may kill."""
    if kafka.broker is None:
        pytest.skip("KAFKA_BOOTSTRAP_SERVERS names a broker that is not ours to kill")
    broker = KafkaBroker(tmp_path / "kafka")
    broker.start()
    yield broker
    broker.stop()


def test_a_broker_that_comes_back_is_followed_again(
    own_broker: KafkaBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(own_broker.bootstrap, "own", tmp_path)
    desk.publish(["a"], POLICY)
    with following(desk) as running:
        own_broker.kill()
        eventually(lambda: "cannot be followed" in caplog.text, what="a warning")
        assert running.ids == ("a",)
        own_broker.start()
        desk.publish(["a", "b"])
        running.await_ids("a", "b")
        assert running.versions.confirmed_age_s < 60
