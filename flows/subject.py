"""What is held of one person? From the newest snapshot of the state, and from Redis.

Read-only, also while the flow runs. The ids of people appear in what is returned and nowhere else:
no error and no log line names one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from flows.errors import RecoveryError
from flows.keys import pseudonyms_of
from flows.personalize import FLOW_ID
from flows.recovery import newest_snapshots
from flows.redis.profiles import Served, read_served
from flows.settings import Settings
from operators import identify, links
from operators.decode import NEVER
from operators.history import Held, Histories, HistoriesWire
from operators.ids import shard_key, shard_of
from operators.moment import Moment
from operators.outputs import Record
from operators.plan import Plan
from operators.profile import Profile, decode_profile
from operators.pseudonyms import Pseudonyms
from operators.sealed_state import decode_state
from operators.shard_state import StateError, decode_shard, watched_since
from operators.views import profile_view
from schemas.identity import Identity

_DECIDE: Final = f"{FLOW_ID}.decide"
_IDENTIFY: Final = f"{FLOW_ID}.identify"
_LINKS: Final = f"{FLOW_ID}.links"


class Linked(NamedTuple):
    """Which ids are one person, and what is held of an id that is not linked yet.

    `aliases` maps the other ids of the family to when the link was last stated, in ms.
    """

    canonical: str
    aliases: dict[str, int]
    events: list[Held]
    consent: tuple[bool, int] | None


class Stored(NamedTuple):
    """A profile as the newest snapshot has it; `written_at` is UTC."""

    profile: Profile
    moment: Moment
    written_at: str


@dataclass(frozen=True)
class Subject:
    """What was found of one person, and where it was looked for."""

    user_id: str
    plan: Plan
    stored: Stored | None
    links: Linked | None
    served: dict[str, Served] | None
    looked_in: tuple[str, ...]

    @property
    def found(self) -> bool:
        """Whether anything is held at all."""
        return self.stored is not None or self.links is not None or bool(self.served)

    @property
    def profile_id(self) -> str:
        """The id that the person's profile is under."""
        return self.user_id if self.links is None else self.links.canonical

    @property
    def view(self) -> Record | None:
        """The profile as it is served, from the state where that is at hand."""
        if self.stored is not None:
            view = profile_view(self.stored.profile, self.plan, self.stored.moment)
            # What was learned is in no snapshot of a profile: predictions are as last served.
            served = self._served_view() or {}
            return view | {"predictions": served.get("predictions", {})}
        return self._served_view()

    @property
    def decisions(self) -> dict[str, Record]:
        """The newest decision of each placement, as served."""
        return {
            key.split(":")[1]: served.value
            for key, served in (self.served or {}).items()
            if key.startswith("decision:")
        }

    @property
    def of_another_policy(self) -> bool:
        """Whether the state names what this policy does not, so that only a part can be told."""
        if self.stored is None or self.stored.profile.plan == self.plan.mark:
            return False
        return any(slot not in self.plan.slots for slot in self.stored.profile.signals)

    def _served_view(self) -> Record | None:
        served = (self.served or {}).get(f"profile:{self.profile_id}")
        return None if served is None else served.value


def look_up(settings: Settings, plan: Plan, user_id: str, *, store: Path | None) -> Subject:
    """Everything held of `user_id` in the recovery store at `store`, and in Redis if there is one.

    Raises RecoveryError where the store cannot be read, ConnectorError where Redis cannot.
    """
    linked: Linked | None = None
    stored: Stored | None = None
    looked_in = []
    profile_id = user_id
    if store is not None:
        looked_in.append(f"the recovery store {store}")
        pseudonyms = pseudonyms_of(settings.model_copy(update={"recovery_dir": store}))
        try:
            linked = _linked(plan, user_id, store, pseudonyms)
            profile_id = user_id if linked is None else linked.canonical
            stored = _stored(settings, plan, profile_id, store, pseudonyms)
        except StateError as error:
            raise RecoveryError(f"recovery store {store}: {error}") from error
    served = None
    if settings.redis is not None:
        looked_in.append("Redis")
        served = read_served(
            settings.redis, profile_id, sorted(plan.placements), prefix=settings.redis_prefix
        )
    return Subject(user_id, plan, stored, linked, served, tuple(looked_in))


def _stored(
    settings: Settings, plan: Plan, profile_id: str, store: Path, pseudonyms: Pseudonyms
) -> Stored | None:
    key = shard_key(shard_of(profile_id, shards=settings.shards))
    snapshot = newest_snapshots(store, _DECIDE, key).get(key)
    if snapshot is None:
        # No such shard: any other one tells whether that is because the number is another.
        snapshot = next(iter(newest_snapshots(store, _DECIDE).values()), None)
    if snapshot is None:
        return None
    wire = decode_shard(snapshot.state, pseudonyms, plan.signals)
    if wire.shards != settings.shards:
        raise RecoveryError(
            f"the state in {store} is of {wire.shards} shards, and {settings.shards} are set: set "
            "NEXTBEST_SHARDS to what the flow runs with"
        )
    block = wire.profiles.get(profile_id)
    if block is None:
        return None
    profile = decode_profile(block)
    since = watched_since(wire.slots, wire.since, plan.slots, newest_ms=wire.newest)
    return Stored(profile, Moment(profile.now_ms, since=since), snapshot.written_at)


class _Groups(msgspec.Struct, array_like=True):
    """An identity group's state, as `operators.identify` writes it."""

    group: int
    groups: int
    watermarks: dict[int, int]
    partitions: int
    routes: dict[str, tuple[str, tuple[str, ...]]]
    histories: HistoriesWire


class _Table(msgspec.Struct, array_like=True):
    """The beginning of the state that `operators.links` writes."""

    links: dict[str, links.Link]


def _linked(plan: Plan, user_id: str, store: Path, pseudonyms: Pseudonyms) -> Linked | None:
    policy = plan.policy.identity or Identity()
    canonical, aliases = user_id, {}
    found = newest_snapshots(store, _LINKS, links.LINKS_KEY).get(links.LINKS_KEY)
    if found is not None:
        graph = links.LinkGraph(policy, pseudonyms)
        graph.restore(found.state)
        canonical, *others = graph.family(user_id)
        table = decode_state(
            found.state, pseudonyms, _Table, magic=links.MAGIC, version=links.VERSION
        ).links
        aliases = {alias: table[alias].since_ms for alias in others}
    key = f"i{links.group_of(user_id)}"
    events: list[Held] = []
    consent = None
    found = newest_snapshots(store, _IDENTIFY, key).get(key)
    if found is not None:
        group = decode_state(
            found.state, pseudonyms, _Groups, magic=identify.MAGIC, version=identify.VERSION
        )
        consent = group.histories.consents.get(user_id)
        histories = Histories(policy, plan.policy.consent, most=1)
        histories.restore(group.histories)
        events = histories.take(user_id, since_ms=NEVER)
    if canonical == user_id and not aliases and not events and consent is None:
        return None
    return Linked(canonical, aliases, events, consent)
