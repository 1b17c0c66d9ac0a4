"""Does a catalogue hold together, and does it fit the policy?

A catalogue alone: ids that occur twice, an attribute that is a number here and a text there. With
its policy: placements, signals and segments that do not exist, fallback contents that are missing,
placements for which nothing qualifies, sensitive tags.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from schemas.catalogue import Content
from schemas.check_conditions import Declared, check_condition, mapping, texts
from schemas.documents import Document
from schemas.mistakes import Mistake, one_of, shown
from schemas.policy import Placement, Policy


@dataclass(frozen=True, slots=True)
class Listed:
    """One content as written, and as a model where it is valid."""

    document: Document
    content: Content | None

    @property
    def content_id(self) -> str | None:
        """The id as written, valid or not."""
        value = self.document.value
        name = value.get("content_id") if isinstance(value, dict) else None
        return name if isinstance(name, str) else None

    @property
    def attributes(self) -> Iterable[tuple[str, object]]:
        """The attributes as written, names that are text only."""
        value = self.document.value
        return mapping(value.get("attributes") if isinstance(value, dict) else None).items()


def check_catalogue(listed: Sequence[Listed]) -> list[Mistake]:
    """The mistakes that a catalogue shows without its policy."""
    return [*_repeated(listed), *_mixed_attributes(listed)]


def _repeated(listed: Iterable[Listed]) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for item in listed:
        name = item.content_id
        if name is None:
            continue
        if name in first:
            expected = f"an id of its own: it is first on line {first[name]}"
            yield item.document.unexpected(("content_id",), name, expected=expected)
        else:
            first[name] = item.document.place(("content_id",))[0]


_WORDS: Final = {True: "a number", False: "not a number"}


def _mixed_attributes(listed: Sequence[Listed]) -> Iterator[Mistake]:
    """A number is binned and a text is a category: one attribute cannot be both."""
    kinds: dict[str, Counter[bool]] = {}
    first: dict[tuple[str, bool], int] = {}
    for item in listed:
        for name, value in item.attributes:
            if isinstance(value, (str, int, float)):  # a union type is three times as slow here
                number = _is_number(value)
                kinds.setdefault(name, Counter())[number] += 1
                if (name, number) not in first:
                    first[name, number] = item.document.place(("attributes", name))[0]
    mixed = {name: seen for name, seen in kinds.items() if len(seen) > 1}
    if not mixed:
        return
    for item in listed:
        for name, value in item.attributes:
            if name not in mixed or not isinstance(value, str | int | float):
                continue
            usual = mixed[name].most_common(1)[0][0]  # the first seen where both are as common
            if _is_number(value) != usual:
                expected = (
                    f"{_WORDS[usual]}: in {mixed[name][usual]} contents {name} is {_WORDS[usual]},"
                    f" first on line {first[name, usual]}"
                )
                yield item.document.unexpected(("attributes", name), value, expected=expected)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_together(
    document: Document, policy: Policy | None, listed: Sequence[Listed]
) -> list[Mistake]:
    """The mistakes that a policy and a catalogue show when they are read together.

    `document` is the policy as written; `policy` is None where it is broken: what can be told
    without it still is.
    """
    declared = Declared.by(document)
    return [
        *_references(declared, listed),
        *_fallbacks(document, declared, listed),
        *_empty_placements(document, policy, listed),
        *_absent_features(document, declared, listed),
        *_sensitive_tags(document, listed),
    ]


def _references(declared: Declared, listed: Iterable[Listed]) -> Iterator[Mistake]:
    for item in listed:
        value = mapping(item.document.value)
        for at, name in texts(value.get("placements")):
            if name not in declared.placements:
                expected = f"a placement of the policy: {one_of(declared.placements, guess=name)}"
                yield item.document.unexpected(("placements", *at), name, expected=expected)
        yield from check_condition(
            item.document, declared, ("eligibility",), value.get("eligibility"), of_segment=False
        )


def _fallbacks(
    document: Document, declared: Declared, listed: Iterable[Listed]
) -> Iterator[Mistake]:
    known = dict.fromkeys(name for item in listed if (name := item.content_id) is not None)
    for placement, raw in declared.placements.items():
        contents = mapping(mapping(raw).get("fallback")).get("contents")
        for at, name in texts(contents):
            if name not in known:
                path = ("placements", placement, "fallback", "contents", *at)
                # The ids themselves may be thousands: the hint is enough.
                hint = one_of(known, guess=name).partition(" (did")
                expected = f"a content of the catalogue{''.join(hint[1:])}"
                yield document.unexpected(path, name, expected=expected)


def _absent_features(
    document: Document, declared: Declared, listed: Iterable[Listed]
) -> Iterator[Mistake]:
    known = dict.fromkeys(name for item in listed for name, _ in item.attributes)
    for placement, raw in declared.placements.items():
        for at, name in texts(mapping(mapping(raw).get("features")).get("content")):
            if name not in known:
                yield document.mistake(
                    ("placements", placement, "features", "content", *at),
                    found=f"{shown(name)}, which no content has",
                    expected=f"an attribute of the catalogue: {one_of(known, guess=name)}",
                    severity="warning",
                )


def qualifies(content: Content, name: str, placement: Placement) -> bool:
    """Whether a content can ever be a candidate of the placement of that name."""
    wanted = placement.candidates
    return (
        (content.placements is None or name in content.placements)
        and (wanted.types is None or content.type in wanted.types)
        and (wanted.tags is None or not set(wanted.tags).isdisjoint(content.tags))
    )


def _empty_placements(
    document: Document, policy: Policy | None, listed: Sequence[Listed]
) -> Iterator[Mistake]:
    contents = [item.content for item in listed if item.content is not None]
    if policy is None or len(contents) < len(listed):
        return  # a content that is broken now may be the candidate
    for name, placement in policy.placements.items():
        if not any(qualifies(content, name, placement) for content in contents):
            yield document.mistake(
                ("placements", name),
                found="no candidate in the catalogue",
                expected="a content with this placement, type or tag: it shows nothing",
                severity="warning",
            )


def _sensitive_tags(document: Document, listed: Sequence[Listed]) -> Iterator[Mistake]:
    carriers: dict[str, list[Listed]] = {}
    for item in listed:
        for _, tag in texts(mapping(item.document.value).get("tags")):
            carriers.setdefault(tag, []).append(item)
    for at, tag in texts(mapping(mapping(document.value).get("sensitive")).get("tags")):
        if items := carriers.get(tag):
            line = items[0].document.place(("tags",))[0]
            count = f"{len(items)} contents" if len(items) > 1 else "1 content"
            yield document.mistake(
                ("sensitive", "tags", *at),
                found=f"{shown(tag)} on {count} (first: {items[0].content_id}, line {line})",
                expected="no content with it: the tag is stripped and teaches nothing",
                severity="warning",
            )
