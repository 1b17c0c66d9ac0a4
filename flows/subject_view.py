"""A person's profile for the eye: signals, segments with their reasons, consent, decisions.

Eighty columns; what is long is cut, `--json` has it whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.subject import Subject
from operators.outputs import Record

_LONGEST: Final = 200
_MOST: Final = 20


def print_subject(subject: Subject, *, console: Console) -> None:
    """Print what is held of a person, as of when, and where that was found."""
    view = subject.view
    console.print(Text(subject.user_id, style="bold"), soft_wrap=True)
    if subject.links is not None:
        for part in _links(subject):
            console.print(part)
    if view is None:
        console.print("No profile; only what is listed here.")
        return
    console.print(f"as of {_when(view['as_of'])}, first seen {_when(view['first_seen'])}")
    console.print(_source(subject))
    intent = view.get("intent")
    if intent is not None:
        console.print(Text.assemble("intent: ", (str(intent), "bold")))
    sections: list[tuple[str, RenderableType | None]] = [
        ("Signals", _pairs(view["signals"])),
        ("Segments", _segments(view["segments"])),
        ("Predictions", _pairs(view.get("predictions", {}))),
        ("Attributes", _attributes(subject, view)),
        ("Consent", _consent(subject, view)),
        ("Hidden", _lines(_hidden(key) for key in view["hidden"])),
        ("Less of", _lines(_hidden(key) for key in view.get("less_wanted", []))),
        ("Personal at most", _pairs(view.get("preferences", {}))),
        ("Last decisions", _decisions(subject, view)),
    ]
    for title, content in sections:
        console.print()
        console.print(Text(title, style="bold"))
        console.print(Padding(Text("none", style="dim") if content is None else content, (0, 2)))


def _source(subject: Subject) -> str:
    if subject.stored is None:
        return "from Redis"
    written = subject.stored.written_at
    return f"from the snapshot of {written} UTC"


def _links(subject: Subject) -> Iterable[Text]:
    links = subject.links
    assert links is not None
    if links.canonical != subject.user_id:
        yield Text(f"linked to {links.canonical}: this is the profile of both")
    others = [alias for alias in links.aliases if alias != subject.user_id]
    if others:
        yield Text(_cut("also known as " + ", ".join(others)))
    if links.events:
        yield Text(f"{len(links.events)} recent events kept until it is linked, or for a while")


def _pairs(values: Mapping[str, Any]) -> RenderableType | None:
    if not values:
        return None
    table = _grid()
    for name, value in values.items():
        table.add_row(Text(name), Text(_shown(value)))
    return table


def _segments(segments: Mapping[str, Any]) -> RenderableType | None:
    if not segments:
        return None
    parts: list[RenderableType] = []
    for name, told in segments.items():
        # A profile that was served by the first release says only since when.
        since, because = (told, []) if isinstance(told, str) else (told["since"], told["because"])
        parts.append(Text.assemble((name, "bold"), f" since {_when(since)}"))
        parts += [Padding(Text(_cut(reason)), (0, 0, 0, 2)) for reason in because]
    return Group(*parts)


def _attributes(subject: Subject, view: Record) -> RenderableType | None:
    said = {} if subject.stored is None else subject.stored.profile.provenance
    return _pairs(
        {
            name: f"{_shown(value)} (from {said[name][0]})" if name in said else value
            for name, value in view["attributes"].items()
        }
    )


def _consent(subject: Subject, view: Record) -> RenderableType | None:
    stored = {} if subject.stored is None else subject.stored.profile.consent
    by = {purpose: " by Global Privacy Control" for purpose, (_, _, who) in stored.items() if who}
    words = {True: "granted", False: "refused"}
    return _pairs({p: words[granted] + by.get(p, "") for p, granted in view["consent"].items()})


def _decisions(subject: Subject, view: Record) -> RenderableType | None:
    last: Mapping[str, Any] = view["last_decisions"]
    served = subject.decisions
    if not last and not served:
        return None
    parts: list[RenderableType] = []
    for placement in dict.fromkeys((*last, *served)):
        record = served.get(placement)
        if record is None:
            contents, when, why = last[placement]["contents"], "", None
        else:
            contents = [item["content_id"] for item in record["items"]]
            when, why = f" at {_when(record['decided_at'])}", record["fallback"]
        note = f" (fallback: {why})" if why else ""
        parts.append(Text.assemble((placement, "bold"), f"{when}{note}"))
        shown = _cut(", ".join(map(str, contents)) or "nothing")
        parts.append(Padding(Text(shown), (0, 0, 0, 2)))
    return Group(*parts)


def _lines(lines: Iterable[str]) -> RenderableType | None:
    found = list(lines)
    if not found:
        return None
    more = [f"and {len(found) - _MOST} more"] if len(found) > _MOST else []
    return Group(*(Text(_cut(line)) for line in [*found[:_MOST], *more]))


def _hidden(key: str) -> str:
    kind, _, name = key.partition(":")
    return f"{'content' if kind == 'c' else 'tag'} {name}"


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    return table


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, Mapping):
        return _cut(", ".join(f"{key} {_shown(held)}" for key, held in value.items()))
    return _cut(json.dumps(value, ensure_ascii=False))


def _when(instant: str) -> str:
    return instant[:16].replace("T", " ") + " UTC"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
