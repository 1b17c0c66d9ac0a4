"""The command line: demo, ladder, run, replay, lift, export, check, profile, forget and helpers.

Every error that a user can mend ends in one message and an exit code, never in a stack trace; a bug
keeps its trace.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flows import subject_cli
from flows.errors import ConnectorError, NextbestError

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_FOLDER: Final = click.Path(path_type=Path, file_okay=False)


_LATER: Final = {
    "ladder": "flows.ladder_cli",
    "lift": "flows.lift_cli",
    "publish": "flows.publish_cli",
}
"""Commands by the module that has them: it is loaded when the command is asked for."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_LATER])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _LATER.get(cmd_name)
        if module is None:
            return super().get_command(ctx, cmd_name)
        found: click.Command = getattr(import_module(module), cmd_name)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NextbestError as error:
            _complain(error)
            sys.exit(error.exit_code)
        except OSError as error:
            # Where it names a file, that file is what is wrong: a folder in the way, no rights.
            if error.filename is None:
                raise
            _complain(error)
            sys.exit(ConnectorError.exit_code)


def _complain(error: Exception) -> None:
    text = f"nextbest: {error}"
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nextbest")
def main() -> None:
    """Decides, for one user at one moment, the next best content."""
    # While a broker cannot be reached the client logs an error each second; ours says it once. It
    # takes the cause from that log (see `flows.kafka.connection`), so only the way out is closed.
    client = logging.getLogger("kafka")
    client.addHandler(logging.NullHandler())
    client.propagate = False
    # What a running flow logs (`run` says where to) is no news of a replay.
    logging.getLogger("flows").addHandler(logging.NullHandler())


@main.command()
@click.option("--out", type=_FOLDER, default=Path("out/demo"), show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--shoppers", type=click.IntRange(1), default=2_000, show_default=True)
@click.option("--contents", type=click.IntRange(10), default=300, show_default=True)
@click.option("--days", type=click.IntRange(1), default=10, show_default=True)
@click.option("--policy", type=_FILE, help="Another policy for the same shop.")
def demo(
    out: Path, seed: int, shoppers: int, contents: int, days: int, policy: Path | None
) -> None:
    """Let simulated shoppers react to the flow's decisions, beside random and most popular."""
    from flows.demo import run_demo
    from flows.demo_table import accounting_line, arms_table

    text = None if policy is None else _text(policy)
    console = Console()
    with _bar(console) as bar:
        tasks: dict[str, Any] = {}

        def progress(arm: str, tick: int, ticks: int) -> None:
            if arm not in tasks:
                tasks[arm] = bar.add_task(arm, total=ticks)
            bar.update(tasks[arm], completed=tick)

        shown = run_demo(
            out,
            seed=seed,
            shoppers=shoppers,
            contents=contents,
            days=days,
            policy_text=text,
            progress=progress,
        )
    console.print(arms_table(shown.arms))
    events, decisions = shown.tally.read, shown.tally.decisions
    console.print(
        f"nextbest: {events:,} events and {decisions:,} decisions in {shown.elapsed_s:.1f} s "
        f"({events / shown.elapsed_s:,.0f} events/s), "
        f"{shown.examples / max(1, decisions):.2f} examples learned per decision"
    )
    console.print(accounting_line(shown.tally.accounting))
    console.print(f"report: {shown.report}", soft_wrap=True)


@main.command()
@click.argument("events", nargs=-1, required=True, type=_FILE)
@click.option("--policy", required=True, type=_FILE)
@click.option("--catalogue", required=True, type=_FILE)
@click.option("--out", required=True, type=_FOLDER)
@click.option(
    "--shards",
    type=click.IntRange(1, 4_096),
    default=64,
    show_default=True,
    envvar="NEXTBEST_SHARDS",
    help="As of the live flow whose log it is: ids and draws follow from it.",
)
def replay(events: tuple[Path, ...], policy: Path, catalogue: Path, out: Path, shards: int) -> None:
    """Run the flow on log files (JSON Lines, plain or .gz), in the order given."""
    from flows.demo_table import accounting_line
    from flows.load import load_plan
    from flows.replay import replay as replay_logs
    from flows.replay_report import write_replay_report

    plan = load_plan(policy, catalogue)
    console = Console()
    # Compressed logs have no known length: the bar then moves without an end.
    plain = all(path.suffix != ".gz" for path in events)
    total = sum(path.stat().st_size for path in events if path.exists()) if plain else None
    with _bar(console, counted=False) as bar:
        task = bar.add_task("replay", total=total)
        done = replay_logs(
            plan,
            list(events),
            out,
            on_bytes=lambda count: bar.advance(task, count),
            shards=shards,
        )
    report = write_replay_report(out / "report.html", plan, done, logs=list(events))
    tally = done.tally
    console.print(
        f"{tally.read:,} events, {tally.decisions:,} decisions, "
        f"{tally.segment_changes:,} segment changes in {done.elapsed_s:.1f} s"
    )
    console.print(accounting_line(tally.accounting))
    console.print(f"report: {report}", soft_wrap=True)


@main.command()
@click.option("--policy", type=_FILE)
@click.option("--catalogue", type=_FILE)
@click.option("-i", "--process-id", type=click.IntRange(0), default=0, show_default=True)
@click.option("-a", "--address", "addresses", multiple=True, help="host:port of each process.")
def run(
    policy: Path | None, catalogue: Path | None, process_id: int, addresses: tuple[str, ...]
) -> None:
    """Run the live flow on Kafka and Redis; settings are NEXTBEST_* in the environment."""
    from flows.engine import leave
    from flows.live import run_live
    from flows.settings import read_settings

    settings = read_settings(policy=policy, catalogue=catalogue)
    _log(settings.log_level)
    if addresses and process_id >= len(addresses):
        raise click.UsageError(f"-i {process_id} needs at least {process_id + 1} addresses (-a)")
    try:
        run_live(settings, process_id=process_id, addresses=addresses)
    except NextbestError as error:
        if len(addresses) < 2:
            raise
        # What the engine leaves behind of a cluster may abort the interpreter on its way out.
        _complain(error)
        leave(error.exit_code)


@main.command()
@click.option("--out", required=True, type=_FILE, help="The log; packed if it ends in .gz.")
@click.option("--topic", help="Default: the events topic.")
@click.option("--from", "start", help="Append time, RFC 3339; default: the beginning.")
@click.option("--to", "end", help="Append time, RFC 3339; default: the end as of now.")
def export(out: Path, topic: str | None, start: str | None, end: str | None) -> None:
    """Write a range of a topic as a log that `replay` reads."""
    from flows.export import export_log
    from flows.settings import read_settings

    settings = read_settings()
    count = export_log(
        settings.kafka,
        topic or settings.topic("events"),
        out,
        start_ms=_instant(start, "--from"),
        end_ms=_instant(end, "--to"),
    )
    Console().print(f"{count:,} records written to {out}", soft_wrap=True)


@main.command()
@click.argument("policy", type=_FILE)
@click.argument("catalogue", type=_FILE, required=False)
@click.option("--estimate", "estimated", is_flag=True, help="Also: the bytes a profile takes.")
@click.option("--coverage", "covered", is_flag=True, help="Also: for whom there is too little.")
@click.option("--at", help="For --coverage: when, RFC 3339; default: now.")
@click.option(
    "--at-least",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="For --coverage: how many contents to choose from beyond the slots.",
)
@click.option("--strict", is_flag=True, help="For --coverage: exit with 2 where there are too few.")
@click.option("--json", "as_json", is_flag=True, help="The figures for machines.")
def check(
    policy: Path,
    catalogue: Path | None,
    estimated: bool,
    covered: bool,
    at: str | None,
    at_least: int,
    strict: bool,
    as_json: bool,
) -> None:
    """Say everything that is wrong with a policy (and a catalogue), each with file and line."""
    from flows.check_cli import Coverage
    from flows.check_cli import check as check_files

    if (at or strict) and not covered:
        raise click.UsageError("--at and --strict belong to --coverage")
    if covered and catalogue is None:
        raise click.UsageError("--coverage is counted in a catalogue: name one after the policy")
    asked = Coverage(_instant(at, "--at"), at_least, strict) if covered else None
    sys.exit(
        check_files(
            policy,
            catalogue,
            estimated=estimated or as_json,
            as_json=as_json,
            coverage=asked,
        )
    )


@main.command()
@click.option("--out", type=_FOLDER, default=Path("schemas-out"), show_default=True)
def schema(out: Path) -> None:
    """Write the JSON Schemas and the AsyncAPI document."""
    from flows.schema_export import write

    for path in write(out):
        click.echo(path)


@main.command()
@click.option("--partitions", type=click.IntRange(1), default=8, show_default=True)
@click.option("--replication", type=click.IntRange(1), default=1, show_default=True)
def topics(partitions: int, replication: int) -> None:
    """Create the topics that are missing, and say where one differs from what it should be."""
    from flows.kafka.admin import default_topics, ensure_topics
    from flows.settings import read_settings

    settings = read_settings()
    specs = default_topics(
        prefix=settings.topic_prefix, partitions=partitions, replication=replication
    )
    for report in ensure_topics(settings.kafka, specs):
        state = "created" if report.created else "exists"
        click.echo(f"{report.name}: {'; '.join((state, *report.differences))}")


@main.command()
@click.option("--rate", type=click.FloatRange(min=1), default=500.0, show_default=True)
@click.option("--shoppers", type=click.IntRange(1), default=2_000, show_default=True)
@click.option("--days", type=click.IntRange(1), default=365, show_default=True)
def simulate(rate: float, shoppers: int, days: int) -> None:
    """Send the simulated shop's events to Kafka, live, at most so many a second."""
    from flows.engine import stop_on_signals
    from flows.settings import read_settings
    from flows.shopfront import run_shop

    settings = read_settings()
    _log(settings.log_level)
    with stop_on_signals() as stop:
        sent = run_shop(settings, events_per_second=rate, shoppers=shoppers, days=days, stop=stop)
    click.echo(f"{sent} events sent")


def _bar(console: Console, *, counted: bool = True) -> Progress:
    columns: list[Any] = [TextColumn("{task.description:>12}"), BarColumn()]
    columns += [MofNCompleteColumn()] if counted else [TextColumn("{task.percentage:>3.0f}%")]
    return Progress(*columns, TimeElapsedColumn(), console=console)


def _log(level: str) -> None:
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    if level == "DEBUG":
        client = logging.getLogger("kafka")
        client.setLevel(logging.INFO)
        client.propagate = True


def _text(path: Path) -> str:
    from flows.check_cli import read_config
    from flows.load import ConfigError

    text = read_config(path)
    if not isinstance(text, str):
        raise ConfigError(str(text))
    return text


def _instant(text: str | None, flag: str) -> int | None:
    from datetime import datetime

    from schemas.time import to_millis

    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.UsageError(
            f"{flag}: expected RFC 3339 with an offset, as in 2026-01-05T00:00:00Z"
        )
    return to_millis(moment)


for _command in (subject_cli.profile, subject_cli.forget, subject_cli.scrub):
    main.add_command(_command)


def every_command() -> dict[str, click.Command]:
    """The commands by name, those that are loaded when asked for among them."""
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


if __name__ == "__main__":
    main()
