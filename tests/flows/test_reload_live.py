"""A running flow adopts what `nextbest publish` publishes, and decides by it from then on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.flows.books import count_of, records
from tests.flows.live_flow import LIVE, LiveFlow, Running, live_flow
from tests.flows.traffic import Traffic, sent_event
from tests.kafka_topics import eventually
from tests.servers.kafka import RunningKafka

CATALOGUE = LIVE / "catalogue.yaml"
POLICY = LIVE / "policy.yaml"


def shown(decisions: Iterable[dict[str, Any]]) -> set[str]:
    return {item["content_id"] for decision in decisions for item in decision["items"]}


class Scene:
    """Requests sent to a flow, and what it decided on them."""

    def __init__(self, flow: LiveFlow, directory: Path) -> None:
        self.flow = flow
        self.traffic = Traffic(flow)
        self._directory = directory

    def without(self, *ids: str) -> Path:
        """The catalogue less some contents."""
        lines = CATALOGUE.read_text().splitlines(keepends=True)
        path = self._directory / "catalogue.yaml"
        path.write_text(
            "".join(line for line in lines if not any(f"content_id: {c}," in line for c in ids))
        )
        return path

    def changed(self, old: str, new: str) -> Path:
        """The policy with some text replaced."""
        text = POLICY.read_text()
        assert old in text
        path = self._directory / "policy.yaml"
        path.write_text(text.replace(old, new))
        return path

    def publish(self, *words: object, code: int = 0) -> str:
        done = self.flow.call("publish", *map(str, words))
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert "Traceback" not in said
        return said

    def decide(self, requests: int) -> list[dict[str, Any]]:
        """What is decided on so many requests from now on."""
        asked: set[str] = set()
        before = count_of(self.flow, "decisions")
        while len(asked) < requests:
            event = sent_event(self.traffic.sent)
            self.traffic.send(event)
            if event["type"] == "decision_requested":
                asked.add(event["event_id"])
        self.traffic.flush()
        eventually(
            lambda: count_of(self.flow, "decisions") >= before + requests, what="the decisions"
        )
        found = records(self.flow, "decisions")
        return [decision for decision in found if decision["trigger"]["event_id"] in asked]


def in_force(running: Running) -> set[str]:
    """The digests of the policies that the process says it runs."""
    return {
        label.split('policy_digest="')[1].split('"')[0]
        for label in running.metric("nextbest_build_info")
    }


def test_a_running_flow_goes_over_to_what_is_published_and_a_restart_finds_it(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    with live_flow(
        kafka.bootstrap, prefix=topic_prefix, directory=tmp_path, redis_url=None, reload_every_s=0.2
    ) as flow:
        scene = Scene(flow, tmp_path)
        running = flow.start()
        running.await_ready()
        first = scene.decide(60)
        (policy,) = {decision["policy_digest"] for decision in first}
        assert {"p0", "p1"} & shown(first)

        # The catalogue alone: what is withdrawn is gone.
        scene.publish("--policy", POLICY, "--catalogue", scene.without("p0", "p1", "p2"))
        running.await_said("come into force")
        second = scene.decide(60)
        assert not shown(second) & {"p0", "p1", "p2"}
        (version,) = {decision["catalogue_version"] for decision in second}
        assert version not in {decision["catalogue_version"] for decision in first}
        assert {decision["policy_digest"] for decision in second} == {policy}

        # A policy: other slots, and a segment that everybody is evaluated for.
        said = scene.publish("--policy", scene.changed("slots: 2", "slots: 1"))
        assert f"(was {policy})" in said
        eventually(lambda: policy not in in_force(running), what="another policy in force")
        third = scene.decide(60)
        assert {len(decision["items"]) for decision in third} == {1}
        (other,) = {decision["policy_digest"] for decision in third}
        assert in_force(running) == {other}

        # What needs a restart is refused, and what is broken is not even published.
        scene.publish("--policy", scene.changed("allowed_lateness: 3s", "allowed_lateness: 4s"))
        running.await_said("needs a restart of the flow: time")
        assert running.metric("nextbest_versions_refused") == {"": 1.0}
        scene.publish("--policy", scene.changed("of: content.tags", "of: nothing"), code=2)
        assert "there are:" in scene.publish("--roll-back", "000000000000", code=2)

        # Back by its digest, and over a crash.
        scene.publish("--roll-back", policy)
        eventually(lambda: in_force(running) == {policy}, what="the former policy in force")
        assert running.metric("nextbest_versions_refused") == {"": 0.0}
        fourth = scene.decide(40)
        assert {len(decision["items"]) for decision in fourth} == {2}
        running.kill()
        scene.publish("--catalogue", scene.without("p3"))
        again = flow.start()
        again.await_ready()
        fifth = scene.decide(60)
        assert not shown(fifth) & {"p3"}
        assert shown(fifth) & {"p0", "p1", "p2"}
        assert {decision["policy_digest"] for decision in fifth} == {policy}
        triggers = [d["trigger"]["event_id"] for d in records(flow, "decisions")]
        assert len(triggers) == len(set(triggers))
        assert again.stop() == 0
        scene.traffic.close()


def test_without_reload_the_files_are_used_whatever_is_published(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    with live_flow(
        kafka.bootstrap, prefix=topic_prefix, directory=tmp_path, redis_url=None, reload=False
    ) as flow:
        scene = Scene(flow, tmp_path)
        scene.publish("--policy", POLICY, "--catalogue", scene.without("p0", "p1", "p2"))
        running = flow.start()
        running.await_ready()
        assert {"p0", "p1", "p2"} & shown(scene.decide(60))
        assert running.stop() == 0
        scene.traffic.close()
