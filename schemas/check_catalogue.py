"""Does a catalogue hold together, and does it fit the policy?

A catalogue alone: ids that occur twice, an attribute that is a number here and a text there, a
prompt that needs what it asks for. With its policy: placements, signals and segments that do not
exist, contents that fallbacks and rules name and that are missing, placements for which nothing
qualifies, sensitive tags, and tags that the policy refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from schemas.catalogue import Content
from schemas.check_conditions import Declared, check_condition, mapping, texts
from schemas.check_placements import personal_reads
from schemas.check_rules import a_content, check_rules_with_catalogue
from schemas.documents import Document, Path
from schemas.guidance import REFUSED_TAGS, Reasons
from schemas.mistakes import Mistake, one_of, shown
from schemas.placements import Placement
from schemas.policy import Policy

_USES: Final = ("collect", "personalise", "learn")


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
    return [*_repeated(listed), *_mixed_attributes(listed), *_closed_prompts(listed)]


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


def _closed_prompts(listed: Iterable[Listed]) -> Iterator[Mistake]:
    for item in listed:
        value = mapping(item.document.value)
        asked = value.get("asks_consent")
        if isinstance(asked, str) and value.get("needs_consent") == asked:
            expected = "another purpose: this content asks for it, so it was not granted yet"
            yield item.document.unexpected(("needs_consent",), asked, expected=expected)


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
        *_rules(document, listed),
        *_empty_placements(document, policy, listed),
        *_not_for_everybody(policy, listed),
        *_absent_attributes(document, declared, listed),
        *_numbers(document, declared, listed),
        *_sensitive_tags(document, listed),
        *_refused_tags(document, listed),
        *_purposes(document, listed),
        *_untold_titles(document, listed),
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
    bound = {
        item.content_id
        for item in listed
        if mapping(item.document.value).get("eligibility") is not None
    }
    for path, fields in _choices(document, declared):
        fallback, here = mapping(fields.get("fallback")), (*path, "fallback")
        named = [(("contents", *at), name) for at, name in texts(fallback.get("contents"))]
        for segment, contents in mapping(fallback.get("segments")).items():
            named += [(("segments", segment, *at), name) for at, name in texts(contents)]
        for at, name in named:
            if name not in known:
                expected = a_content(known, guess=name)
                yield document.unexpected((*here, *at), name, expected=expected)
            elif name in bound:
                yield document.mistake(
                    (*here, *at),
                    found=f"{shown(name)}, which has an eligibility of its own",
                    expected="a content for anybody: a fallback asks nothing of the profile, "
                    "so this one is never shown",
                    severity="warning",
                )


def _choices(document: Document, declared: Declared) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The placements and the changes of variants, as written, each with its path."""
    for name, raw in declared.placements.items():
        yield ("placements", name), mapping(raw)
    tests = mapping(mapping(mapping(document.value).get("experiments")).get("tests"))
    for name, test in tests.items():
        for variant, arm in mapping(mapping(test).get("variants")).items():
            path = ("experiments", "tests", name, "variants", variant, "changes")
            yield path, mapping(mapping(arm).get("changes"))


def _rules(document: Document, listed: Iterable[Listed]) -> Iterator[Mistake]:
    contents: dict[str, None] = {}
    tags: dict[str, None] = {}
    types: dict[str, None] = {}
    attributes: dict[str, None] = {}
    for item in listed:
        value = mapping(item.document.value)
        if (name := item.content_id) is not None:
            contents[name] = None
        kind = value.get("type", Content.model_fields["type"].default)
        if isinstance(kind, str):
            types[kind] = None
        tags.update(dict.fromkeys(tag for _, tag in texts(value.get("tags"))))
        attributes.update(dict.fromkeys(name for name, _ in item.attributes))
    yield from check_rules_with_catalogue(
        document, contents=contents, tags=tags, types=types, attributes=attributes
    )


def _absent_attributes(
    document: Document, declared: Declared, listed: Iterable[Listed]
) -> Iterator[Mistake]:
    """Attributes that no content has, where features, limits, rewards or groups name them."""
    known = dict.fromkeys(name for item in listed for name, _ in item.attributes)
    for path, name in _named_attributes(document, declared):
        if name not in known:
            yield document.mistake(
                path,
                found=f"{shown(name)}, which no content has",
                expected=f"an attribute of the catalogue: {one_of(known, guess=name)}",
                severity="warning",
            )


def _named_attributes(document: Document, declared: Declared) -> Iterator[tuple[Path, str]]:
    for path, fields in _choices(document, declared):
        for at, name in texts(mapping(fields.get("features")).get("content")):
            yield (*path, "features", "content", *at), name
        limits = fields.get("diversity")
        for i, limit in enumerate(limits if isinstance(limits, list) else ()):
            if (limited := _attribute(mapping(limit).get("by"))) is not None:
                yield (*path, "diversity", i, "by"), limited
    for reward, raw in declared.rewards.items():
        if (worth := _attribute(mapping(raw).get("times"))) is not None:
            yield ("rewards", reward, "times"), worth
    groups = mapping(mapping(mapping(document.value).get("monitoring")).get("groups"))
    for group, raw in groups.items():
        told = mapping(raw)
        compared = told.get("attribute")
        if told.get("of") == "content" and isinstance(compared, str):
            yield ("monitoring", "groups", group, "attribute"), compared


def _attribute(field: object) -> str | None:
    """The content attribute of a field path; None where it names another field."""
    if isinstance(field, str) and field.startswith("attributes."):
        return field.removeprefix("attributes.")
    return None


def _numbers(document: Document, declared: Declared, listed: Sequence[Listed]) -> Iterator[Mistake]:
    """A reward times an attribute that is no number."""
    for reward, raw in declared.rewards.items():
        wanted = _attribute(mapping(raw).get("times"))
        if wanted is None:
            continue
        other = (
            (item, value)
            for item in listed
            for name, value in item.attributes
            if name == wanted and not _is_number(value)
        )
        for item, value in other:
            line = item.document.place(("attributes", wanted))[0]
            yield document.mistake(
                ("rewards", reward, "times"),
                found=f"{shown(value)} as {wanted} of {item.content_id} (line {line})",
                expected="an attribute that is a number in all contents that have it",
            )
            break  # one says it


def qualifies(content: Content, name: str, placement: Placement) -> bool:
    """Whether a content can ever be a candidate of the placement of that name."""
    wanted = placement.candidates
    return (
        (content.placements is None or name in content.placements)
        and (wanted.types is None or content.type in wanted.types)
        and (wanted.tags is None or not set(wanted.tags).isdisjoint(content.tags))
    )


def is_fit(content: Content, placement: Placement) -> bool:
    """Whether a content is not too sensitive for a placement."""
    return placement.candidates.sensitive or not content.sensitive


def _empty_placements(
    document: Document, policy: Policy | None, listed: Sequence[Listed]
) -> Iterator[Mistake]:
    contents = [item.content for item in listed if item.content is not None]
    if policy is None or len(contents) < len(listed):
        return  # a content that is broken now may be the candidate
    for name, placement in policy.placements.items():
        if not any(qualifies(c, name, placement) and is_fit(c, placement) for c in contents):
            yield document.mistake(
                ("placements", name),
                found="no candidate in the catalogue",
                expected="a content with this placement, type or tag: it shows nothing",
                severity="warning",
            )


def _not_for_everybody(policy: Policy | None, listed: Sequence[Listed]) -> Iterator[Mistake]:
    """Contents that ask about one person where everybody gets the same answer."""
    shared = {n: p for n, p in policy.placements.items() if p.shared} if policy else {}
    for item in listed if shared else ():
        content = item.content
        asked = personal_reads(mapping(item.document.value).get("eligibility"))
        if content is None or not asked:
            continue
        for name, placement in shared.items():
            if qualifies(content, name, placement):
                yield item.document.mistake(
                    ("eligibility",),
                    found=f"a condition on {', '.join(asked)}",
                    expected=f"segments only, or other placements: in {name} everybody "
                    "in the same segments gets the same answer",
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


def _folded(tag: str) -> str:
    return tag.strip().casefold().replace(" ", "_").replace("-", "_")


def _refused_tags(document: Document, listed: Iterable[Listed]) -> Iterator[Mistake]:
    whole = mapping(document.value)
    refused = {_folded(tag) for _, tag in texts(whole.get("refused_tags", list(REFUSED_TAGS)))}
    for item in listed:
        for at, tag in texts(mapping(item.document.value).get("tags")):
            if _folded(tag) in refused:
                expected = (
                    "a content that may be shown: the policy refuses this tag (refused_tags), for "
                    "what presses or shames people is not theirs to choose"
                )
                yield item.document.unexpected(("tags", *at), tag, expected=expected)


def _purposes(document: Document, listed: Iterable[Listed]) -> Iterator[Mistake]:
    """Purposes that contents ask for or need and that no use of the policy does: once each."""
    consent = mapping(mapping(document.value).get("consent"))
    known = dict.fromkeys(p for use in _USES if isinstance(p := consent.get(use), str))
    known |= dict.fromkeys(name for _, name in texts(consent.get("purposes")))
    told: set[str] = set()
    for item in listed:
        value = mapping(item.document.value)
        for field in ("needs_consent", "asks_consent"):
            purpose = value.get(field)
            if isinstance(purpose, str) and purpose not in known and purpose not in told:
                told.add(purpose)
                yield item.document.mistake(
                    (field,),
                    found=f"{shown(purpose)}, which the policy's consent does not name",
                    expected=f"a purpose of the policy: {one_of(known, guess=purpose)}",
                    severity="warning",
                )


def _untold_titles(document: Document, listed: Iterable[Listed]) -> Iterator[Mistake]:
    """Titles by language without the one that reasons fall back to: told once."""
    reasons = mapping(mapping(document.value).get("reasons"))
    language = reasons.get("language", Reasons.model_fields["language"].default)
    if not isinstance(language, str):
        return
    without = [
        item
        for item in listed
        if (titles := mapping(mapping(item.document.value).get("title"))) and language not in titles
    ]
    if without:
        more = f" (and of {len(without) - 1} more)" if len(without) > 1 else ""
        yield without[0].document.mistake(
            ("title",),
            found=f"no title in {shown(language)}{more}",
            expected="one in reasons.language, for those whose language has none",
            severity="warning",
        )
