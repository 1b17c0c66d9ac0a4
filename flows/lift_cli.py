"""`nextbest lift`: what have the tests shown, as of these logs?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows import lift_words as words
from flows.lift_logs import HOLDOUT, LogError, Read, read_logs
from operators.lift import Asked, Lift, MetricLift, Study, VariantLift
from schemas.check_experiments import METRICS, OF_A_REWARD
from schemas.policy import Policy
from schemas.time import format_duration, parse_duration

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_PERSONALISED: Final = "personalised"
_DEFAULT_METRICS: Final = ("conversion",)


def _duration(ctx: click.Context, param: click.Parameter, text: str) -> int:
    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    if not duration:
        raise click.BadParameter("expected more than no time at all", ctx, param)
    return duration


@click.command()
@click.option(
    "--decisions", multiple=True, required=True, type=_FILE, help="A log; may be given repeatedly."
)
@click.option("--outcomes", multiple=True, required=True, type=_FILE, help="A log; likewise.")
@click.option(
    "--events",
    multiple=True,
    type=_FILE,
    help="A log; needed for retention, session_time and satisfaction.",
)
@click.option("--policy", type=_FILE, help="Says metrics, guardrails, controls and shares.")
@click.option("--test", "only", multiple=True, help="Only this test; may be given repeatedly.")
@click.option("--metric", "metrics", multiple=True, help="Instead of those of the policy.")
@click.option("--control", help="The variant that others are compared with, without a policy.")
@click.option(
    "--horizon",
    callback=_duration,
    default="7d",
    show_default=True,
    help="How long a profile is looked at from its first exposure on.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(1e-6, 0.5, max_open=True),
    default=0.05,
    show_default=True,
    help="Chance of a false alarm, ever, per test and metric.",
)
@click.option("--json", "as_json", is_flag=True, help="The figures for machines.")
@click.option("--html", type=_FILE, help="Also a page with the intervals over time.")
def lift(
    decisions: tuple[Path, ...],
    outcomes: tuple[Path, ...],
    events: tuple[Path, ...],
    policy: Path | None,
    only: tuple[str, ...],
    metrics: tuple[str, ...],
    control: str | None,
    horizon: int,
    alpha: float,
    as_json: bool,
    html: Path | None,
) -> None:
    """Compare the variants of tests, and the holdout, from decision and outcome logs.

    Logs are those that replay writes and export exports (JSON Lines, plain or .gz). Intervals are
    anytime-valid: look as often as you like, stop when you like.
    """
    if not math.isfinite(alpha):
        raise click.UsageError("--alpha: expected a chance between 0.000001 and 0.5")
    declared = None if policy is None else _policy(policy)
    if declared is not None:
        _must_exist(metrics, declared)
    study = Study(horizon)
    read = read_logs(study, decisions=list(decisions), outcomes=list(outcomes), events=list(events))
    names = _tests(study, only)
    found = [
        study.result(name, _asked(study, name, declared, metrics, control), alpha=alpha)
        for name in names
    ]
    if html is not None:
        from flows.lift_page import write_page

        write_page(html, found, facts=_facts(read, study))
    if as_json:
        click.echo(_json(found, read, study), nl=False)
        return
    console = Console()
    for test in found:
        _print(test, study, console)
    console.print(Text(_closing(read, study)), soft_wrap=True)
    if html is not None:
        console.print(Text(f"page: {html}"), soft_wrap=True)


def _must_exist(metrics: tuple[str, ...], policy: Policy) -> None:
    for metric in metrics:
        of, _, reward = metric.partition(".")
        known = metric in METRICS or metric in policy.rewards
        if not known and not (of in OF_A_REWARD and reward in policy.rewards):
            told = ", ".join([*METRICS, *policy.rewards])
            raise click.UsageError(f"--metric {metric}: expected one of {told}")


def _policy(path: Path) -> Policy:
    from flows.check_cli import load_files
    from flows.load import ConfigError

    checked = load_files(path, catalogue=None)
    if checked.failed or checked.policy is None:
        raise ConfigError("\n".join(str(m) for m in checked.mistakes if m.severity == "error"))
    return checked.policy


def _tests(study: Study, only: tuple[str, ...]) -> list[str]:
    if not study.tests:
        raise LogError(
            "no decision of these logs names a test or the holdout: does the policy that made them "
            "have the section experiments?"
        )
    for name in only:
        if name not in study.tests:
            raise LogError(
                f"no decision names the test {name}: {', '.join(sorted(study.tests))} do"
            )
    return list(dict.fromkeys(only)) or sorted(study.tests)


def _asked(
    study: Study, name: str, policy: Policy | None, metrics: tuple[str, ...], control: str | None
) -> Asked:
    seen = {exposed.variant for exposed in study.tests[name].profiles.values()}
    experiments = None if policy is None else policy.experiments
    test = None if experiments is None else experiments.tests.get(name)
    if test is not None:
        total = sum(variant.weight for variant in test.variants.values())
        first = next(iter(test.variants))
        return Asked(
            control=first,
            variants=tuple(test.variants),
            metrics=metrics or test.metrics,
            guardrails=() if metrics else test.guardrails,
            shares={v: variant.weight / total for v, variant in test.variants.items()},
        )
    shares: Mapping[str, float] | None = None
    if name == HOLDOUT:
        first = HOLDOUT
        holdout = None if experiments is None else experiments.holdout
        if holdout is not None:
            shares = {HOLDOUT: holdout.share, _PERSONALISED: 1.0 - holdout.share}
        seen |= {HOLDOUT, _PERSONALISED}
    elif control is not None:
        if control not in seen:
            raise LogError(
                f"no decision of {name} is of the variant {control}: {', '.join(sorted(seen))} are"
            )
        first = control
    else:
        first = "control" if "control" in seen else min(seen)
    others = sorted(seen - {first})
    return Asked(first, (first, *others), metrics or _DEFAULT_METRICS, shares=shares)


def _print(test: Lift, study: Study, console: Console) -> None:
    layer = f", layer {test.layer}" if test.layer else ""
    title = f"{test.test}{layer}: each variant beside {test.control}"
    table = Table(title=Text(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for heading in ("metric", "variant", "profiles", "value", "lift", "interval", "verdict"):
        left = heading in ("metric", "variant", "verdict")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for metric in test.metrics:
        name = metric.metric + (" (guardrail)" if metric.guardrail else "")
        if metric.missing is not None:
            table.add_row(Text(name), "", "", "", "", "", Text(metric.missing))
        for variant in metric.variants:
            table.add_row(*_row(name, metric, variant))
            name = ""
    console.print(table)
    console.print(Text(f"  exposed: {words.exposed(test)}; {_finished(test, study)}"))
    style = "bold red" if words.is_broken(test) else ""
    console.print(Text(f"  {words.ratio(test)}", style=style))
    console.print(Text(f"  each interval holds with {words.confidence(test)}, at all times"))
    if test.moved:
        console.print(
            Text(f"  {test.moved:,} profiles met more than one variant; the first one counts")
        )
    if any(v.compared is None for metric in test.metrics for v in metric.variants[1:]):
        console.print(Text(f"  {words.NEEDED}"))
    console.print()


def _finished(test: Lift, study: Study) -> str:
    counts = [sum(v.profiles for v in m.variants) for m in test.metrics if m.missing is None]
    most = max(counts, default=0)
    horizon = format_duration(study.horizon_ms)
    waiting = sum(test.exposed.values()) - most
    return f"{waiting:,} of them are not finished yet ({horizon} from the first exposure)"


def _row(name: str, metric: MetricLift, variant: VariantLift) -> list[Text]:
    said = variant.compared
    cells = [name, variant.variant, f"{variant.profiles:,}"]
    cells.append(words.value(metric.metric, variant.value))
    if variant is metric.variants[0]:
        return [Text(cell) for cell in (*cells, "", "", "")]
    verdict = words.verdict(metric, variant)
    style = {"better": "green", "worse": "red", "got worse": "bold red"}.get(verdict, "")
    if said is None:
        cells += ["", ""]
    elif said.lift_bounds.low is None:
        # No lift where the control may be 0; the difference always has an interval.
        cells.append(words.value(metric.metric, said.difference, sign=True))
        cells.append(words.difference_between(metric.metric, said.bounds))
    else:
        cells += [words.lift(said.lift), words.lift_between(said.lift_bounds)]
    return [*(Text(cell) for cell in cells), Text(verdict, style=style)]


def _facts(read: Read, study: Study) -> dict[str, str]:
    facts = {
        "decisions": f"{read.decisions:,}",
        "outcomes": f"{read.outcomes:,}",
        "events": f"{read.events:,}",
        "horizon": format_duration(study.horizon_ms),
    }
    return (
        {**facts, "lines that are no event": f"{read.unreadable:,}"} if read.unreadable else facts
    )


def _closing(read: Read, study: Study) -> str:
    return ", ".join(f"{name}: {text}" for name, text in _facts(read, study).items())


def _json(found: list[Lift], read: Read, study: Study) -> str:
    import orjson

    document = {
        "horizon": format_duration(study.horizon_ms),
        "decisions": read.decisions,
        "outcomes": read.outcomes,
        "events": read.events,
        "unreadable_events": read.unreadable,
        "tests": [_test_record(test) for test in found],
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(document, option=options).decode()


def _test_record(test: Lift) -> dict[str, Any]:
    record = dataclasses.asdict(test)
    record["sample_ratio_broken"] = words.is_broken(test)
    for metric, plain in zip(test.metrics, record["metrics"], strict=True):
        for variant, row in zip(metric.variants, plain["variants"], strict=True):
            control = variant is metric.variants[0]
            row["verdict"] = None if control else words.verdict(metric, variant)
            said = variant.compared
            row["compared"] = None if said is None else _plain(said)
            row["course"] = [
                {"at_ms": p.at_ms, "profiles": p.profiles, "compared": _plain(p.compared)}
                for p in variant.course
            ]
    return record


def _plain(said: Any) -> dict[str, Any] | None:
    if said is None:
        return None
    plain = said._asdict()
    for name in ("bounds", "lift_bounds"):
        plain[name] = list(plain[name])
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()
    }
