"""Which plan does this process decide by, and when does it go over to another?

One per process. State: the plan and what was built for it. `turn` is called between batches, on the
engine's thread: a newer plan that was offered is taken over there and nowhere else, so a batch of a
shard is decided by one plan from its first event to its last.
"""

from __future__ import annotations

from collections.abc import Callable

from operators.decide import Adopt, Decide
from operators.parameters import Parameters
from operators.plan import Plan


class InForce:
    """The plan in force and the machine that decides by it.

    `newest` gives the newest plan that may be adopted; asked at every turn, so it must be cheap.
    `taken` is told each plan that comes into force after the first.
    """

    def __init__(
        self,
        plan: Plan,
        parameters: Parameters,
        *,
        adopt: Adopt,
        newest: Callable[[], Plan] | None = None,
        taken: Callable[[Plan], None] = lambda _plan: None,
    ) -> None:
        self.plan = plan
        self._parameters = parameters
        self._adopt = adopt
        self._newest = newest
        self._taken = taken
        self.decide = self._built(plan)

    def turn(self) -> Decide:
        """Go over to the newest plan if it is another one; what decides from now on."""
        if self._newest is not None:
            plan = self._newest()
            if plan is not self.plan:
                # Built first: where that fails the former stays whole.
                decide = self._built(plan)
                self.plan, self.decide = plan, decide
                self._taken(plan)
        return self.decide

    def current(self) -> Plan:
        """The plan in force, the newest there is."""
        self.turn()
        return self.plan

    def _built(self, plan: Plan) -> Decide:
        return Decide(plan, self._parameters, adopt=self._adopt)
