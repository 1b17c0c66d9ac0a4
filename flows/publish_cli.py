"""How do a policy and a catalogue get to the flows that run? `nextbest publish`.

Both are checked as `nextbest check` does; what has an error is not published. What changed is
written in one transaction, contents first and `current` last, so that no reader ever sees half of
it, and a publisher that dies half-way has published nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import click
from rich.console import Console
from rich.text import Text

from flows.check_cli import FAILED, closing_line, print_mistakes, read_config
from flows.errors import NextbestError
from flows.kafka.admin import check_kafka
from flows.kafka.compacted import Compacted, Kept, Together, Writing
from flows.kafka.connection import KafkaConnection
from flows.load import ConfigError
from flows.published import (
    CURRENT,
    LINES,
    NotWholeError,
    Published,
    catalogue_text,
    checked,
    compiled,
    content_records,
    current_headers,
    whole,
)
from operators.adopt import why_not_hot
from schemas.check import load
from schemas.digest import catalogue_version, policy_digest
from schemas.time import rfc3339

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_NAMED_AT_MOST: Final = 10


class RefusedError(NextbestError):
    """What was to be published has errors; they were printed."""

    exit_code = FAILED


class Topics(NamedTuple):
    """The full names of the two topics."""

    policies: str
    catalogue: str


class Change(NamedTuple):
    """What a publication changed; `restart` says what a running flow cannot take over."""

    policy_digest: str
    former_digest: str | None
    catalogue_version: str
    new: tuple[str, ...]
    changed: tuple[str, ...]
    withdrawn: tuple[str, ...]
    unchanged: int
    written: int
    restart: str | None


Choose = Callable[[Published | None, Mapping[bytes, Kept]], Published]
"""What is to be published, given what is now and every policy that ever was."""


def publish_version(connection: KafkaConnection, topics: Topics, choose: Choose) -> Change:
    """Publish what `choose` gives; nothing is written where nothing changed.

    A publisher that begins later ends this one, so that two never mix. Raises what `choose` does,
    RefusedError, ConnectorError and DeliveryError.
    """
    check_kafka(connection, topics)
    held_policies = Compacted(connection, topics.policies)
    held_catalogue = Compacted(connection, topics.catalogue)
    with Together(connection, name=f"nextbest-publish.{topics.policies}") as together:
        try:
            held_policies.read()
            held_catalogue.read()
        finally:
            held_policies.close()
            held_catalogue.close()
        try:
            former = whole(held_policies.newest, held_catalogue.newest)
        except NotWholeError:
            former = None  # this publication mends it
        wanted = choose(former, held_policies.newest)
        held = {key: kept.value for key, kept in held_catalogue.newest.items()}
        records = _records(topics, wanted, held, held_policies.newest)
        if records:
            together.write(records)
    return _change(wanted, former, held, written=len(records))


def _records(
    topics: Topics,
    wanted: Published,
    held: Mapping[bytes, bytes],
    policies: Mapping[bytes, Kept],
) -> list[Writing]:
    digest, version = wanted.policy_digest.encode(), wanted.catalogue_version or ""
    changed = [item for item in wanted.contents.items() if held.get(item[0]) != item[1]]
    records = [Writing(topics.catalogue, key, value) for key, value in changed]
    records += [Writing(topics.catalogue, key, None) for key in held if key not in wanted.contents]
    if digest not in policies:
        records.append(Writing(topics.policies, digest, wanted.policy))
    current, headers = policies.get(CURRENT), current_headers(version, wanted.contents)
    if records or current is None or (current.value, current.headers) != (digest, headers):
        records.append(Writing(topics.policies, CURRENT, digest, headers))
    return records


def _change(
    wanted: Published, former: Published | None, held: Mapping[bytes, bytes], *, written: int
) -> Change:
    after = wanted.contents
    return Change(
        wanted.policy_digest,
        None if former is None else former.policy_digest,
        wanted.catalogue_version or "",
        _named(key for key in after if key not in held),
        _named(key for key, value in after.items() if key in held and held[key] != value),
        _named(key for key in held if key not in after),
        sum(held.get(key) == value for key, value in after.items()),
        written,
        _restart(former, wanted) if written else None,
    )


def _named(keys: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(sorted(key.decode(errors="replace") for key in keys))


def _restart(former: Published | None, wanted: Published) -> str | None:
    if former is None:
        return None
    try:
        return why_not_hot(compiled(former), compiled(wanted))
    except ConfigError:
        return None  # no flow runs on a former version that this release does not accept


def of_files(policy: Path | None, catalogue: Path | None, *, console: Console) -> Choose:
    """Publishes these files; what is not given stays as it is published.

    Every mistake is printed, with its file and line. Raises ConfigError and RefusedError.
    """

    def choose(former: Published | None, _policies: Mapping[bytes, Kept]) -> Published:
        if former is None and (policy is None or catalogue is None):
            raise ConfigError("nothing whole is published yet: give both --policy and --catalogue")
        in_force = former or Published("", b"", None, {})
        text = in_force.policy.decode() if policy is None else _read(policy)
        found = load(
            text,
            policy_name=f"policy {in_force.policy_digest}" if policy is None else str(policy),
            catalogue_text=catalogue_text(in_force.contents)
            if catalogue is None
            else _read(catalogue),
            catalogue_name=LINES if catalogue is None else str(catalogue),
        )
        print_mistakes(found.mistakes, console=console)
        console.print(Text(closing_line(found)), soft_wrap=True)
        if found.failed or found.policy is None or found.contents is None:
            raise RefusedError("nothing was published")
        wanted = Published(
            in_force.policy_digest if policy is None else policy_digest(found.policy),
            text.encode(),
            catalogue_version(found.contents),
            in_force.contents if catalogue is None else content_records(found.contents),
        )
        # What readers will see is what must be right.
        again = checked(wanted)
        version = None if again.contents is None else catalogue_version(again.contents)
        if again.failed or version != wanted.catalogue_version:
            raise AssertionError("a catalogue that was written out is not read back as it was")
        return wanted

    return choose


def _read(path: Path) -> str:
    text = read_config(path)
    if not isinstance(text, str):
        raise ConfigError(str(text))
    return text


def back_to(digest: str) -> Choose:
    """Puts a former policy in force again, with the catalogue as it is."""

    def choose(former: Published | None, policies: Mapping[bytes, Kept]) -> Published:
        kept = policies.get(digest.encode())
        if kept is None or digest.encode() == CURRENT:
            raise ConfigError(f"no policy {digest} was ever published{_known(policies)}")
        if former is None:
            raise ConfigError(
                "the catalogue on its topic is not whole: publish --policy and --catalogue"
            )
        wanted = former._replace(policy_digest=digest, policy=kept.value)
        found = checked(wanted)
        if found.failed or found.contents is None:
            raise ConfigError(
                f"policy {digest} does not fit the catalogue of now, nothing was published:\n"
                + "\n".join(str(m) for m in found.mistakes if m.severity == "error")
            )
        return wanted._replace(catalogue_version=catalogue_version(found.contents))

    return choose


def _known(policies: Mapping[bytes, Kept]) -> str:
    current = policies[CURRENT].value if CURRENT in policies else b""
    lines = [
        f"  {key.decode(errors='replace')}, published {rfc3339(kept.written_ms)}"
        + (" (in force)" if key == current else "")
        for key, kept in policies.items()
        if key != CURRENT
    ]
    return ("; there are:\n" + "\n".join(lines)) if lines else ": there is none"


def told(change: Change) -> list[str]:
    """What a publication changed, in lines."""
    if not change.written:
        return [
            f"nothing to publish: policy {change.policy_digest} is in force with this catalogue"
        ]
    was = change.former_digest
    lines = [
        f"policy {change.policy_digest}"
        + ("" if was in (None, change.policy_digest) else f" (was {was})")
        + ("" if was != change.policy_digest else " (as before)"),
        f"catalogue {change.catalogue_version}: {len(change.new)} new, {len(change.changed)} "
        f"changed, {len(change.withdrawn)} withdrawn, {change.unchanged} unchanged",
    ]
    for word, names in (
        ("new", change.new),
        ("changed", change.changed),
        ("withdrawn", change.withdrawn),
    ):
        if names:
            rest = len(names) - _NAMED_AT_MOST
            more = f" and {rest} more" if rest > 0 else ""
            lines.append(f"  {word}: {', '.join(names[:_NAMED_AT_MOST])}{more}")
    if change.restart is None:
        lines.append("running flows adopt it with their next batch")
    else:
        lines.append(f"running flows must be restarted for this policy: {change.restart}")
    return lines


@click.command()
@click.option("--policy", type=_FILE, help="Absent: the policy stays as it is.")
@click.option("--catalogue", type=_FILE, help="Absent: the catalogue stays as it is.")
@click.option("--roll-back", "digest", help="Put this former policy in force again.")
@click.option("--topic-prefix", help="Default: NEXTBEST_TOPIC_PREFIX.")
def publish(
    policy: Path | None, catalogue: Path | None, digest: str | None, topic_prefix: str | None
) -> None:
    """Publish a policy and a catalogue to the flows that run, or go back to a former policy."""
    from flows.settings import read_settings

    if digest is not None and (policy is not None or catalogue is not None):
        raise click.UsageError("--roll-back goes alone: the catalogue stays as it is")
    if digest is None and policy is None and catalogue is None:
        raise click.UsageError("say what to publish: --policy, --catalogue or --roll-back")
    settings = read_settings(topic_prefix=topic_prefix)
    console = Console()
    choose = of_files(policy, catalogue, console=console) if digest is None else back_to(digest)
    topics = Topics(settings.topic("policies"), settings.topic("catalogue"))
    for line in told(publish_version(settings.kafka, topics, choose)):
        console.print(Text(line), soft_wrap=True)
