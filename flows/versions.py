"""Which policy and catalogue are published, and which of them may a running flow adopt?

A thread of its own follows the topics `policies` and `catalogue`. What is published is checked and
compiled there, off the hot path, and offered as a whole; the engine's thread takes it over between
batches (`flows.in_force`). What is broken, half there or needs a restart is refused with a log
line, and the former stays. State: the newest plan that may be adopted. A broker that cannot be
reached changes nothing but the age of what is known.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal

from flows.errors import ConnectorError
from flows.kafka.compacted import Compacted
from flows.kafka.connection import KafkaConnection
from flows.load import ConfigError
from flows.published import NotWholeError, Published, compiled, whole
from operators.adopt import why_not_hot
from operators.decide import Decide
from operators.parameters import LocalParameters
from operators.plan import Plan

_LOG: Final = logging.getLogger(__name__)
_WHOLE_WITHIN_S: Final = 10.0

Outcome = Literal["adopted", "refused", "restart"]
"""What became of a publication: offered to the flow; broken; only for a flow that starts anew."""


class Versions:
    """Follows what is published and offers the newest plan that the running flow may adopt.

    First `initial`, then `start` with the plan that the flow begins with; then `newest` gives a
    plan at any time, from any thread, without waiting. `told` hears of each publication once, on
    the reader's thread. Use it in a `with` statement or close it.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        policies: str,
        catalogue: str,
        every_s: float = 1.0,
        told: Callable[[Outcome], None] = lambda _outcome: None,
    ) -> None:
        self._policies = Compacted(connection, policies)
        self._catalogue = Compacted(connection, catalogue)
        self._every_s = every_s
        self._told = told
        self._newest: Plan | None = None
        self._judged: tuple[str, str] | None = None
        self._trouble: str | None = None
        self._unreached = False
        self._reread = False
        self._again = False
        self._confirmed_at = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Versions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def initial(self) -> Plan | None:
        """The plan that is published now; None where nothing ever was.

        Raises ConnectorError; NotWholeError and ConfigError where what is published cannot be run
        on: a flow that starts knows no former version to stay with.
        """
        deadline = time.monotonic() + _WHOLE_WITHIN_S
        while True:
            self._read()
            try:
                published = whole(self._policies.newest, self._catalogue.newest)
                break
            except NotWholeError:
                # One topic may be a moment behind the other: what is committed appears on each
                # by itself.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        if published is None:
            return None
        self._judged = published.name
        try:
            plan = compiled(published)
        except ConfigError as error:
            raise ConfigError(
                f"what is published on {self._policies.topic} and {self._catalogue.topic} cannot "
                f"be run; publish again, or go back with `nextbest publish --roll-back`:\n{error}"
            ) from error
        _LOG.info("the policy and catalogue that are published are used, not those of files")
        return plan

    def start(self, plan: Plan) -> None:
        """Follow from now on; `plan` is what the flow begins with."""
        self._newest = plan
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)
        self._thread.start()

    def newest(self) -> Plan:
        """The newest plan that the running flow may adopt."""
        assert self._newest is not None, "start comes first"
        return self._newest

    @property
    def trouble(self) -> str | None:
        """Why the newest publication is not in force; None: it is."""
        return self._trouble

    @property
    def confirmed_age_s(self) -> float:
        """Seconds since the broker last confirmed that nothing newer is published."""
        return time.monotonic() - self._confirmed_at

    def close(self) -> None:
        """End the thread and disconnect."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(10.0)
            if self._thread.is_alive():
                return  # it disconnects by itself, or ends with the process
        self._policies.close()
        self._catalogue.close()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self._turn()
            except Exception as error:
                # Nobody would miss a thread that has ended: it goes on with what comes next.
                _LOG.exception("published versions cannot be followed")
                self._trouble = f"what is published cannot be judged: {error!r}"
                self._policies.close()
                self._catalogue.close()

    def _turn(self) -> None:
        try:
            moved = self._read()
        except ConnectorError as error:
            if not self._unreached:
                _LOG.warning("published versions cannot be followed for now: %s", error)
            self._unreached = True
            return
        if self._unreached:
            _LOG.info("published versions are followed again")
            self._unreached = False
        if moved or self._again:
            self._again = False
            self._look()

    def _read(self) -> bool:
        policies, catalogue = self._policies.read(), self._catalogue.read()
        self._confirmed_at = time.monotonic()
        return policies or catalogue

    def _look(self) -> None:
        try:
            published = whole(self._policies.newest, self._catalogue.newest)
            self._reread = False
        except NotWholeError as error:
            self._not_whole(error)
            return
        if published is None or published.name == self._judged:
            return
        outcome = self._judge(published)
        self._judged = published.name
        self._told(outcome)

    def _not_whole(self, error: NotWholeError) -> None:
        if not self._reread:
            # The first time it may be the moment between two topics, or a tombstone that was
            # compacted away while the broker could not be reached: everything is read anew, and
            # looked at once more at the next turn.
            self._again = True
            try:
                self._policies.reread()
                self._catalogue.reread()
                self._reread = True
            except ConnectorError as unreached:
                _LOG.warning("published versions cannot be read anew for now: %s", unreached)
            return
        text = str(error)
        if text == self._trouble:
            return
        self._trouble = text
        self._judged = None
        _LOG.error("what is published is not adopted, the former version stays: %s", text)

    def _judge(self, published: Published) -> Outcome:
        former = self.newest()
        if self._is_newest(published):
            self._trouble = None  # back to what is in force
            return "adopted"
        try:
            plan = _tried(published)
        except ConfigError as error:
            return self._refuse("refused", f"policy {published.policy_digest}: {error}")
        except Exception:
            _LOG.exception("policy %s cannot be compiled", published.policy_digest)
            return self._refuse("refused", f"policy {published.policy_digest} cannot be compiled")
        why = why_not_hot(former, plan)
        if why is not None:
            outcome = self._refuse(
                "restart", f"policy {published.policy_digest} needs a restart of the flow: {why}"
            )
            self._offer_catalogue(former, published)
            return outcome
        self._offer(plan)
        self._trouble = None
        return "adopted"

    def _offer(self, plan: Plan) -> None:
        self._newest = plan
        _LOG.info(
            "policy %s (%s) and catalogue %s, %d contents, come into force with the next batch",
            plan.policy.name,
            plan.policy_digest,
            plan.catalogue_version,
            len(plan.contents.ids),
        )

    def _offer_catalogue(self, former: Plan, published: Published) -> None:
        """Go on with the former policy and the new catalogue: a withdrawal waits for no restart."""
        kept = self._policies.newest.get(former.policy_digest.encode())
        if kept is None or published.catalogue_version == former.catalogue_version:
            return
        try:
            plan = _tried(published._replace(policy_digest=former.policy_digest, policy=kept.value))
        except ConfigError as error:
            _LOG.error("nor does its catalogue fit the former policy: %s", error)
            return
        if why_not_hot(former, plan) is None:
            self._offer(plan)

    def _is_newest(self, published: Published) -> bool:
        plan = self.newest()
        return (published.policy_digest, published.catalogue_version) == (
            plan.policy_digest,
            plan.catalogue_version,
        )

    def _refuse(self, outcome: Outcome, why: str) -> Outcome:
        self._trouble = why
        plan = self.newest()
        _LOG.error(
            "what is published is not adopted, policy %s with catalogue %s stays: %s",
            plan.policy_digest,
            plan.catalogue_version,
            why,
        )
        return outcome


def _tried(published: Published) -> Plan:
    """The plan, with what decides by it built once: the engine's thread must not fail at that."""
    plan = compiled(published)
    Decide(plan, LocalParameters(), adopt=lambda _decision_id: None)
    return plan
