"""Commands about one person, and about what is left of those who were erased.

An id is printed where the user typed it, and nowhere else: no error and no log line repeats one.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, Final

import click
from rich.console import Console
from rich.text import Text

from flows.errors import NextbestError

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_FOLDER: Final = click.Path(path_type=Path, file_okay=False)
_DEFAULT_STORE: Final = "Where the flow keeps its state; default: NEXTBEST_RECOVERY_DIR."


class UnknownPersonError(NextbestError):
    """Nothing is held of the person asked about."""


@click.command()
@click.argument("user")
@click.option("--store", type=_FOLDER, help=_DEFAULT_STORE)
@click.option("--policy", type=_FILE)
@click.option("--catalogue", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="The profile and decisions for machines.")
@click.option("--export", "whole", is_flag=True, help="Everything held, in a portable form.")
@click.option("--out", type=_FILE, help="Where --json or --export writes; default: here.")
def profile(
    user: str,
    store: Path | None,
    policy: Path | None,
    catalogue: Path | None,
    as_json: bool,
    whole: bool,
    out: Path | None,
) -> None:
    """Show what is held of one user: signals, segments and why, consent, last decisions.

    From the newest snapshot where the recovery store is at hand, and from Redis.
    """
    from flows.live import now_ms, plan_of_settings
    from flows.settings import read_settings
    from flows.subject import look_up
    from flows.subject_export import export
    from flows.subject_view import print_subject

    settings = read_settings(policy=policy, catalogue=catalogue)
    if out is not None and not (as_json or whole):
        raise click.UsageError("--out goes with --json or --export")
    if store is not None and not _is_store(store):
        raise click.UsageError(f"{store} is no recovery store: it holds no part-*.sqlite3")
    at_hand = store or (settings.recovery_dir if _is_store(settings.recovery_dir) else None)
    if at_hand is None and settings.redis is None:
        raise click.UsageError("say where to look: --store, or NEXTBEST_REDIS_URL")
    subject = look_up(settings, plan_of_settings(settings), user, store=at_hand)
    if not subject.found:
        raise UnknownPersonError(
            f"nothing is held of this user in {' or '.join(subject.looked_in)}"
        )
    if subject.of_another_policy:
        click.echo(
            "nextbest: what is held was kept under another policy than this one, and cannot all be "
            "named: give the flow's own with --policy and --catalogue",
            err=True,
        )
    if whole:
        _write(export(subject, now_ms=now_ms()).model_dump(mode="json"), out)
    elif as_json:
        _write({"profile": subject.view, "decisions": subject.decisions}, out)
    else:
        print_subject(subject, console=Console())


@click.command()
@click.argument("users", nargs=-1, metavar="[USER]...")
@click.option(
    "--from",
    "listed",
    type=click.File("r", encoding="utf-8"),
    help="A file with one id a line; - for standard input, which leaves no trace in the shell.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds to wait for the receipts.",
)
@click.option(
    "--tombstone",
    "tombstones",
    multiple=True,
    metavar="TOPIC",
    help="A compacted topic of yours, keyed by user id: an empty record is sent to it.",
)
def forget(
    users: tuple[str, ...], listed: IO[str] | None, timeout: float, tombstones: tuple[str, ...]
) -> None:
    """Erase users: their profiles, decisions still open, and every key in Redis.

    Waits for the flow's receipts and prints them. The flow has to be running.
    """
    from flows.forget import forget as forget_users
    from flows.live import now_ms
    from flows.settings import read_settings

    lines = [] if listed is None else [line.strip() for line in listed]
    ids = list(dict.fromkeys([*users, *(line for line in lines if line)]))
    if not ids:
        raise click.UsageError("whom? Give ids, or a file of them with --from")
    try:
        done = forget_users(
            read_settings(), ids, timeout_s=timeout, tombstones=tombstones, now_ms=now_ms
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    console = Console()
    for one in done:
        for receipt in one.receipts:
            what = "erased" if receipt["found"] else "nothing was held"
            line = f"{what} at {receipt['erased_at']}  receipt {receipt['receipt_id']}"
            console.print(Text(line), soft_wrap=True)
    removed = [one.keys_removed for one in done if one.keys_removed is not None]
    if removed:
        console.print(f"{sum(removed)} left-over keys were deleted from Redis")


@click.command()
@click.option("--store", type=_FOLDER, help=_DEFAULT_STORE)
def scrub(store: Path | None) -> None:
    """Take what is no longer state out of the files of a recovery store.

    A running flow does so by itself after an erasure, and when it starts and stops. While one runs,
    free pages and the log are cleared; without one the files are rewritten.
    """
    from flows.scrub import scrub as scrub_store
    from flows.scrub import scrub_running
    from flows.settings import read_settings

    path = store or read_settings().recovery_dir
    if not _is_store(path):
        raise click.UsageError(f"{path} is no recovery store: it holds no part-*.sqlite3")
    if scrub_store(path):
        click.echo(f"{path} holds live state and nothing else")
        return
    scrub_running(path)
    click.echo(
        f"{path} is in use: free pages and the log are cleared. What may be left is the beginning "
        "of sealed snapshots, until the flow stops"
    )


def _is_store(path: Path) -> bool:
    return any(path.glob("part-*.sqlite3"))


def _write(document: Any, out: Path | None) -> None:
    import orjson

    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if out is None:
        click.echo(text, nl=False)
        return
    # What is in it is nobody else's business.
    out.touch(mode=0o600)
    out.write_bytes(text)
    click.echo(f"written to {out}", err=True)
