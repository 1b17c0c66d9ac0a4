"""Which named steps does the flow have, and how are they joined? The diagram of the README.

It is read off the dataflow that `flows.personalize` builds, so it cannot say what the code does
not do. Steps that only reshape items are drawn as the arrow they are part of. Drawn is the flow of
a policy without optional sections. The one edge that no dataflow can hold, since it has no cycles,
is added by name: parameters, read by `decide`.

    python -m flows.diagram
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSource
from bytewax.visualize import to_rendered

from flows.files import JsonLines
from flows.personalize import Core, Outlet, personalize
from flows.shop.plan import shop_plan, shop_policy
from flows.simulate.shop import Shop
from flows.streams import StreamName
from operators.decode import Decoder
from operators.parameters import LocalParameters
from operators.plan import Plan
from schemas.records import RawBatch

OUTLETS: Final[tuple[StreamName, ...]] = (
    "decisions",
    "segment-changes",
    "outcomes",
    "late",
    "erasures",
    "dead-letters",
    "parameters",
    "monitoring",
)
"""What every policy has; other streams come from steps that an optional section adds."""
_RESHAPING: Final = frozenset(
    {
        *("activations", "examples", "learned", "given", "sets", "reports", "taken", "serve"),
        *("watched", "told"),
    }
)
_SAYS: Final = {
    "events": "events",
    "decode": "decode: event or dead letter",
    "route": "route: by shard",
    "decide": "decide, one state per shard: consent, signals, segments, attribution, choice",
    "learn": "learn, one state per model: weights by reward kind",
    "monitor": "monitor, one state per placement: reward, coverage, drift, fairness",
    "serving": "Redis: newest decisions and profiles",
    "erasures": "erasures: receipts",
}


def example_flow(plan: Plan | None = None) -> Dataflow:
    """The live flow's graph, with files in place of Kafka and Redis; it is never run.

    Of the simulated shop's plan where none is given.
    """
    plan = plan or shop_plan(Shop(1, shoppers=1, contents=10), shop_policy())
    policy = plan.policy
    core = Core(
        plan=plan,
        decoder=Decoder(policy.time, policy.sensitive, plan.placement_names),
        parameters=LocalParameters(),
        incarnation="diagram",
    )
    nothing: list[RawBatch] = []
    return personalize(
        core,
        source=TestingSource(nothing),
        outlets={name: Outlet(JsonLines(Path(name))) for name in OUTLETS},
        serving=JsonLines(Path("serving")),
        serve=lambda _out: [],
    )


def edges(flow: Dataflow) -> list[tuple[str, str]]:
    """The (from, to) pairs of named steps, in the order of the flow; reshaping steps left out."""
    rendered = to_rendered(flow)
    # The engine names a port "<flow>.<step>.<port>" and nothing else tells whose it is.
    step_of = {
        port.port_id: step.step_id.removeprefix(f"{flow.flow_id}.")
        for step in rendered.substeps
        for port in step.out_ports
    }
    feeds = {
        step.step_id.removeprefix(f"{flow.flow_id}."): [
            step_of[source] for port in step.inp_ports for source in port.from_port_ids
        ]
        for step in rendered.substeps
    }

    def named(step: str) -> list[str]:
        """The nearest named steps at or before a step."""
        if step in _RESHAPING or step.endswith("-parts"):
            return [found for source in feeds[step] for found in named(source)]
        return [step]

    return [
        (source, step)
        for step, sources in feeds.items()
        if named(step) == [step]
        for given in sources
        for source in named(given)
    ]


def mermaid(flow: Dataflow) -> str:
    """The diagram as a Mermaid flowchart."""
    pairs = edges(flow)
    sinks = {step for _, step in pairs} - {source for source, _ in pairs}
    sources = {source for source, _ in pairs} - {step for _, step in pairs}
    lines = ["flowchart LR"]
    for step in dict.fromkeys(step for pair in pairs for step in pair):
        text = _SAYS.get(step, step)
        if step in sinks or step in sources:
            lines.append(f'    {_id(step)}[("{text}")]')
        else:
            lines.append(f'    {_id(step)}["{text}"]')
    lines += [f"    {_id(source)} --> {_id(step)}" for source, step in pairs]
    lines.append(f'    {_id("learn")} -. "parameters, out of band" .-> {_id("decide")}')
    return "\n".join(lines)


def _id(step: str) -> str:
    # `end` and friends are words of Mermaid's own: no id is a bare step name.
    return f"s_{step.replace('-', '_')}"


if __name__ == "__main__":
    print(mermaid(example_flow()))
