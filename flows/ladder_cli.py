"""`nextbest ladder`: how much personalisation pays, and what does it take?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from flows.ladder_words import Told

_FOLDER: Final = click.Path(path_type=Path, file_okay=False)
_MEASURES: Final = ("reward", "ctr", "conversion", "revenue")


def _seeds(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise click.BadParameter("expected whole numbers, as in 1,2,3", ctx, param) from None
    return seeds


@click.command()
@click.option("--out", type=_FOLDER, default=Path("out/ladder"), show_default=True)
@click.option("--seeds", callback=_seeds, help="One shop each, as in 1,2,3 (the default).")
@click.option("--shoppers", type=click.IntRange(1), help="In each shop.")
@click.option("--contents", type=click.IntRange(10))
@click.option("--days", type=click.IntRange(1))
@click.option("--quick", is_flag=True, help="Small shops: a look at the page, not at the truth.")
@click.option(
    "--measure",
    type=click.Choice(_MEASURES),
    default=_MEASURES[0],
    show_default=True,
    help="What has to rise for a step to pay.",
)
@click.option("--workers", type=click.IntRange(1), help="Runs at a time; default: one per core.")
@click.option("--json", "as_json", is_flag=True, help="The figures for machines.")
def ladder(
    out: Path,
    seeds: tuple[int, ...] | None,
    shoppers: int | None,
    contents: int | None,
    days: int | None,
    quick: bool,
    measure: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Play static segments, dynamic segments and real-time decisions in the same simulated shops.

    Says what each step earns over the one below it, with its interval, and what it takes; writes
    ladder.html, ladder.json and the policies.
    """
    from flows.ladder import QUICK, STEPS, Size, climb, policy_text, quieten, spare_cores
    from flows.ladder_page import render_page
    from flows.ladder_words import record, told

    given: dict[str, Any] = {
        "seeds": seeds,
        "shoppers": shoppers,
        "contents": contents,
        "days": days,
    }
    size = replace(QUICK if quick else Size(), **{k: v for k, v in given.items() if v is not None})
    quieten()
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=as_json)
    if not console.is_terminal:
        # A file or a pipe has no width: an interval cut short would say something else.
        console = Console(stderr=as_json, width=100)
    runs = len(size.seeds) * len(STEPS)
    with Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as bar:
        task = bar.add_task("ladder", total=runs)
        climbed = climb(
            size,
            workers=workers or spare_cores(runs),
            progress=lambda done, _runs: bar.update(task, completed=done),
        )
    tale = told(climbed, measure=measure)
    for step in STEPS:
        (out / f"{step.name}.yaml").write_text(policy_text(step.name), encoding="utf-8")
    page, figures = out / "ladder.html", out / "ladder.json"
    page.write_text(render_page(tale), encoding="utf-8")
    figures.write_bytes(orjson.dumps(record(tale), option=orjson.OPT_INDENT_2) + b"\n")
    if as_json:
        click.echo(figures.read_bytes(), nl=False)
        return
    _print(tale, console)
    console.print(Text(f"page: {page}"), soft_wrap=True)


def _print(tale: Told, console: Console) -> None:
    from flows import ladder_words as words
    from flows.ladder import STEPS
    from flows.ladder_lift import MEASURES
    from flows.report.numbers import count, duration_us

    for measure in MEASURES:
        table = Table(
            title=f"{measure.title} ({measure.says})", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        table.add_column("step", no_wrap=True)
        for heading in ("value", "over the step below", "over the baseline"):
            table.add_column(heading, justify="right", no_wrap=True)
        for index, step in enumerate(STEPS):
            below, baseline = tale.below(measure, index), tale.baseline(measure, index)
            table.add_row(
                step.title,
                words.value(measure, tale.sample.value(measure, index)),
                # As text: a bracket would be read as markup.
                Text("" if below is None else words.between(below)),
                Text("" if baseline is None else words.between(baseline)),
            )
        console.print(table)
    table = Table(title="what it takes", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("step", no_wrap=True)
    for heading in ("an event", "typical profile", "signals", "segments"):
        table.add_column(heading, justify="right", no_wrap=True)
    for step, cost in zip(STEPS, tale.climbed.costs, strict=True):
        table.add_row(
            step.title,
            duration_us(cost.us_per_event),
            f"{count(cost.profile_bytes)} bytes",
            str(cost.signals),
            str(cost.segments),
        )
    console.print(table)
    for said in tale.verdicts:
        console.print(Text(words.verdict(said)), soft_wrap=True)
    console.print(Text(words.conclusion(tale)), soft_wrap=True)
