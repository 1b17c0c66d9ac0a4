"""`nextbest` with a part of its delivery broken: the kill tests must notice each of these.

`python -m tests.flows.sabotage run` breaks what SABOTAGE names, in this process only:
`delivery`: neither does the sink look at the topic's tail nor are recorded decisions adopted.
`adoption`: the sink looks, but decisions are made anew, under parameters that have changed.
"""

from __future__ import annotations

import os

import flows.kafka.sink
import flows.live
import operators.score
from flows.cli import main


def break_tail_scan() -> None:
    def blind(scanner: object, partition: int, resume_state: object) -> tuple[dict[str, int], int]:
        del resume_state
        _, end = scanner.held([partition])[partition]  # type: ignore[attr-defined]
        return {}, end

    flows.kafka.sink._pending = blind


def break_adoption() -> None:
    flows.live.read_tail = lambda *_given, **_named: {}  # type: ignore[attr-defined]


def change_parameters() -> None:
    score = operators.score.Scorer.score

    def inverted(self: operators.score.Scorer, *given: object) -> operators.score.Scores:
        scores = score(self, *given)  # type: ignore[arg-type]
        inverse: operators.score.Scores = scores.max() + scores.min() - scores
        return inverse

    operators.score.Scorer.score = inverted  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    broken = os.environ["SABOTAGE"]
    break_adoption()
    if broken == "delivery":
        break_tail_scan()
    elif os.environ["SABOTAGE_PARAMETERS"] == "changed":
        change_parameters()
    main()
