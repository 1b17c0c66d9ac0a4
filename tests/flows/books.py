"""Do topic, state and Redis of a live flow tell one story? The oracle of the kill tests.

`Books` are everything the flow has written down: what a consumer reads (read committed), what the
recovery store holds of each profile, and what Redis serves. `contradictions` lists, in words, every
request without its one decision and every place where two of the three disagree.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import redis
from pydantic import BaseModel, ValidationError

from flows.load import load_plan
from operators.decide import Decide
from operators.parameters import LocalParameters
from operators.profile import Profile
from operators.pseudonyms import Pseudonyms
from operators.shard import restored
from schemas.decisions import Decision, Late, Outcome, SegmentChange
from tests.flows.live_flow import PARTITIONS, LiveFlow
from tests.kafka_topics import records_in

_MODELS: dict[str, type[BaseModel]] = {
    "decisions": Decision,
    "outcomes": Outcome,
    "segment-changes": SegmentChange,
    "late": Late,
}


@dataclass(frozen=True)
class Books:
    decisions: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    late: list[dict[str, Any]]
    dead: list[Any]
    profiles: dict[str, Profile]
    served: dict[str, dict[str, Any]]
    views: dict[str, dict[str, Any]]

    @property
    def last_decision(self) -> dict[str, dict[str, Any]]:
        """The topic's last decision of each profile."""
        return {decision["profile_id"]: decision for decision in self.decisions}


def raw_records(flow: LiveFlow, name: str) -> list[Any]:
    held = records_in(flow.bootstrap, flow.topic(name), partitions=PARTITIONS)
    return [record for partition in sorted(held) for record in held[partition]]


def records(flow: LiveFlow, name: str) -> list[dict[str, Any]]:
    """The records of a topic, in order within a partition; each is valid and keyed by profile."""
    found = []
    for record in raw_records(flow, name):
        value: dict[str, Any] = orjson.loads(record.value)
        try:
            _MODELS[name].model_validate(value)
        except ValidationError as error:
            raise AssertionError(f"{name} holds an invalid record: {error}\n{value}") from error
        assert record.key == value["profile_id"].encode()
        found.append(value)
    return found


def count_of(flow: LiveFlow, name: str) -> int:
    return len(raw_records(flow, name))


def profiles_in(stores: Iterable[Path], flow: LiveFlow) -> dict[str, Profile]:
    """Every profile of the newest snapshots, by id."""
    plan = load_plan(flow.policy, flow.catalogue)
    decide = Decide(plan, LocalParameters(), adopt=lambda _decision_id: None)
    stores = list(stores)
    # The processes of one flow share the directory, and so the key that the first one made there.
    (key_file,) = {store / "pseudonym.key" for store in stores}
    pseudonyms = Pseudonyms(key_file.read_bytes())
    newest: dict[str, tuple[int, bytes]] = {}
    for part in (part for store in stores for part in sorted(store.glob("part-*.sqlite3"))):
        with closing(sqlite3.connect(f"file:{part}?mode=ro", uri=True)) as held:
            rows = held.execute(
                "SELECT state_key, snap_epoch, ser_change FROM snaps WHERE step_id = ?",
                ("nextbest.decide",),
            )
            for key, epoch, change in rows:
                if key not in newest or newest[key][0] < epoch:
                    newest[key] = (epoch, change)
    found: dict[str, Profile] = {}
    for _, change in newest.values():
        shards = int(flow.env()["NEXTBEST_SHARDS"])
        shard = restored(
            pickle.loads(change),
            shards=shards,
            decide=decide,
            with_views=False,
            pseudonyms=pseudonyms,
        )
        for profile_id in [*shard._cold]:
            profile = shard.look(profile_id)
            assert profile is not None
            found[profile_id] = profile
    return found


def books_of(flow: LiveFlow) -> Books:
    """Everything that a stopped flow has written down."""
    served: dict[str, dict[str, Any]] = {}
    views: dict[str, dict[str, Any]] = {}
    profiles = profiles_in([flow.store], flow)
    if flow.redis_url is not None:
        with redis.Redis.from_url(flow.redis_url) as client:
            for profile_id in profiles:
                decision: Any = client.hget(f"{flow.prefix}:decision:home:{profile_id}", "d")
                view: Any = client.hget(f"{flow.prefix}:profile:{profile_id}", "d")
                if decision is not None:
                    served[profile_id] = orjson.loads(decision)
                if view is not None:
                    views[profile_id] = orjson.loads(view)
    return Books(
        decisions=records(flow, "decisions"),
        outcomes=records(flow, "outcomes"),
        changes=records(flow, "segment-changes"),
        late=records(flow, "late"),
        dead=raw_records(flow, "dead-letters"),
        profiles=profiles,
        served=served,
        views=views,
    )


def contradictions(books: Books, *, requested: Sequence[str]) -> list[str]:
    """Everything that is not as it should be; empty where all is well."""
    return [
        *missing_or_repeated(books, requested=requested),
        *state_against_topic(books),
        *redis_against_topic(books),
    ]


def missing_or_repeated(books: Books, *, requested: Sequence[str]) -> list[str]:
    late = {record["event_id"] for record in books.late}
    made = Counter(decision["trigger"]["event_id"] for decision in books.decisions)
    found = [f"request {r} has no decision" for r in requested if not made[r] and r not in late]
    found += [f"late request {r} has a decision" for r in late if made[r]]
    ids = Counter(decision["decision_id"] for decision in books.decisions)
    found += [f"decision {name} stands {n} times" for name, n in ids.items() if n > 1]
    for what, names in (
        ("change", Counter(change["change_id"] for change in books.changes)),
        ("outcome", Counter(outcome["decision_id"] for outcome in books.outcomes)),
    ):
        found += [f"{what} {name} stands {n} times" for name, n in names.items() if n > 1]
    return found


def state_against_topic(books: Books) -> list[str]:
    """State must hold what the topic says: the last decision, what is open, what was closed."""
    found = []
    recorded = {decision["decision_id"]: decision for decision in books.decisions}

    def compare(where: str, decision_id: str, items: list[tuple[str, float]]) -> None:
        record = recorded.get(decision_id)
        if record is None:
            found.append(f"{where} names {decision_id}, which the topic has not")
        elif [(item["content_id"], item["propensity"]) for item in record["items"]] != items:
            found.append(f"{where} and topic disagree about {decision_id}")

    for profile_id, last in books.last_decision.items():
        profile = books.profiles.get(profile_id)
        if profile is None or "home" not in profile.last:
            found.append(f"state knows no decision of {profile_id}")
            continue
        identity, contents = profile.last["home"]
        if identity != last["decision_id"]:
            found.append(f"state's last decision of {profile_id} is not the topic's")
        elif contents != [item["content_id"] for item in last["items"]]:
            found.append(f"state and topic disagree about what {profile_id} saw last")
    for profile in books.profiles.values():
        for pending in profile.pending:
            items = [(item.content_id, item.propensity) for item in pending.items]
            compare("an open decision", pending.decision_id, items)
    for outcome in books.outcomes:
        items = [(item["content_id"], item["propensity"]) for item in outcome["items"]]
        compare("an outcome", outcome["decision_id"], items)
    return found


def redis_against_topic(books: Books) -> list[str]:
    found = []
    for profile_id, last in books.last_decision.items():
        if books.served.get(profile_id) != last:
            found.append(f"Redis does not serve the last decision of {profile_id}")
        shown = books.views.get(profile_id, {}).get("last_decisions", {}).get("home", {})
        if shown.get("decision_id") != last["decision_id"]:
            found.append(f"Redis has an old profile of {profile_id}")
    for profile_id, profile in books.profiles.items():
        version = books.views.get(profile_id, {}).get("version")
        if version != profile.version:
            found.append(
                f"Redis has version {version} of {profile_id}, state has {profile.version}"
            )
    return found
