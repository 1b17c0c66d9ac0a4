"""Every mistake of a policy or catalogue is found, at its line and field, all at once."""

from __future__ import annotations

import copy
import gzip
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from ruamel.yaml import YAML

from flows.check_cli import FAILED, PASSED, check, load_files
from operators.plan import compile_plan
from schemas.check import Checked, load, load_catalogue, load_policy
from schemas.digest import catalogue_version, policy_digest
from schemas.mistakes import Mistake, Severity
from schemas.policy import Policy

POLICIES = Path(__file__).parent / "policies"
SHOP = POLICIES / "shop.yaml"
SHOP_CATALOGUE = POLICIES / "shop_catalogue.yaml"

Expected = list[tuple[int, str]]

DEFAULTS = {
    "name": "name: shop",
    "signals": "signals: {views: {kind: count, events: view, within: 7d}}",
    "rewards": "rewards: {click: {events: click, value: 1, within: 30m}}",
    "placements": "placements: {home: {rewards: [click]}}",
}


def completed(text: str) -> str:
    """The text with valid sections added below for those it leaves out; its lines stay put."""
    missing = (
        line for key, line in DEFAULTS.items() if not re.search(rf"^{key}:", text, re.MULTILINE)
    )
    return "\n".join([text.rstrip("\n"), *missing, ""])


def marked(text: str, severity: Severity = "error") -> Expected:
    """The (line, field) pairs that `#!` (errors) or `#?` (warnings) announce in a text."""
    sign = {"error": "#!", "warning": r"#\?"}[severity]
    return sorted(
        (number, field)
        for number, line in enumerate(text.split("\n"), start=1)
        for field in re.findall(rf"{sign} (\S+)", line)
    )


def told(mistakes: list[Mistake] | tuple[Mistake, ...], severity: Severity = "error") -> Expected:
    return sorted((m.line, m.field) for m in mistakes if m.severity == severity)


def one(text: str) -> Mistake:
    """The only error of a policy."""
    mistakes = load_policy(completed(text), name="policy.yaml")[1]
    errors = [m for m in mistakes if m.severity == "error"]
    assert len(errors) == 1, [str(m) for m in errors]
    return errors[0]


BROKEN = {
    "an unknown field at the top": "colour: red  #! colour\n",
    "a missing name": "signals: {v: {kind: last, events: view}}\nname: null  #! name\n",
    "a name in capitals": "name: Shop  #! name\n",
    "a number as a name": """
signals:
  1: {kind: last, events: view}  #! signals.1
  a: {kind: last, events: view}
""",
    "no placement at all": """
placements: {}  #! placements
rewards:
  c: {events: c, value: 1, within: 1d}  #? rewards.c
""",
    "a list where a mapping belongs": """
signals: [views]  #! signals
segments: {s: {when: {attribute: a, is: 1}}}
""",
    "an unknown signal kind": """
signals:
  a: {kind: cuont, events: x, within: 1d}  #! signals.a.kind
""",
    "a signal without a kind": "signals:\n  a: {events: x, within: 1d}  #! signals.a.kind",
    "a window without a unit": """
signals:
  a:
    kind: count
    events: view
    within: 7  #! signals.a.within
""",
    "a missing window points at the signal": """
signals:
  a:  #! signals.a.within
    kind: count
    events: view
""",
    "a window beyond 400 days": """
signals:
  a: {kind: count, events: x, within: 401d}  #! signals.a
""",
    "an event type in capitals": """
signals:
  a:
    kind: count
    within: 1d
    events:
      - view
      - Click  #! signals.a.events.1
""",
    "a lone event type in capitals": """
signals:
  a: {kind: last, events: View}  #! signals.a.events
""",
    "no event types": "signals:\n  a: {kind: last, events: []}  #! signals.a.events",
    "an unknown filter field": """
signals:
  a:
    kind: last
    events: view
    where:
      proprties.x: 1  #! signals.a.where.proprties.x
""",
    "a misspelt bound in a filter": """
signals:
  a:
    kind: last
    events: view
    where:
      value:
        at_leat: 3  #! signals.a.where.value.at_leat
""",
    "a filter value of the wrong shape": """
signals:
  a:
    kind: last
    events: view
    where:
      value: [1, [2]]  #! signals.a.where.value.1
""",
    "a misspelt bound in a condition": """
segments:
  bargain:
    when:
      signal: views
      at_leat: 3  #! segments.bargain.when.at_leat
""",
    "a condition that asks nothing": "segments:\n  s: {when: {signal: views}}  #! segments.s.when",
    "a condition of no kind": "segments:\n  s: {when: {sginal: views}}  #! segments.s.when",
    "a condition that is text": "segments:\n  s: {when: views}  #! segments.s.when",
    "a segment without a condition": "segments:\n  s: {description: x}  #! segments.s.when",
    "mistakes deep within all, any and not": """
segments:
  s:
    when:
      all:
        - signal: views
          at_least: three  #! segments.s.when.all.0.at_least
        - any:
            - not:
                not:
                  attribute: 3  #! segments.s.when.all.1.any.0.not.not.attribute
                  is: x
            - {segment: nobody}  #! segments.s.when.all.1.any.1.segment
        - all: []  #! segments.s.when.all.2.all
        - {done: view, within: 1h, at_least: 0}  #! segments.s.when.all.3.at_least
""",
    "segments named like the words of the language": """
segments:
  when: {when: {not: {signal: views, at_lest: 1}}}  #! segments.when.when.not.at_lest
  all: {when: {all: [{segment: not}, 5]}}  #! segments.all.when.all.1
  not: {when: {signal: views, above: x}}  #! segments.not.when.above
""",
    "an unknown signal in a condition": """
segments:
  s: {when: {signal: veiws, at_least: 1}}  #! segments.s.when.signal
""",
    "an unknown segment in eligibility": """
placements:
  home: {rewards: [click], eligibility: {segment: x}}  #! placements.home.eligibility.segment
""",
    "a key for a signal that has none": """
segments:
  s: {when: {signal: views, key: x, at_least: 1}}  #! segments.s.when.key
""",
    "an affinity without a key": """
signals: {tastes: {kind: affinity, weights: {view: 1}}}
segments:
  s: {when: {signal: tastes, at_least: 1}}  #! segments.s.when.key
""",
    "within on a count": """
segments:
  s:
    when:
      signal: views
      within: 1d  #! segments.s.when.within
      not_within: 2d  #! segments.s.when.not_within
""",
    "a range on last": """
signals: {seen: {kind: last, events: view}}
segments:
  s: {when: {signal: seen, within: 1d, at_least: 3}}  #! segments.s.when.at_least
""",
    "segments that need each other": """
segments:
  a: {when: {segment: b}}
  b: {when: {not: {segment: c}}}
  c: {when: {any: [{segment: a}, {signal: views, above: 1}]}}  #! segments.c.when.any.0.segment
  d: {when: {segment: d}}  #! segments.d.when.segment
""",
    "context in a segment": """
segments:
  s: {when: {not: {context: device, is: mobile}}}  #! segments.s.when.not.context
""",
    "windows of done and not_done out of bounds": """
segments:
  a: {when: {done: view, within: 401d}}  #! segments.a.when.within
  b: {when: {not_done: view, within: 500ms}}  #! segments.b.when.within
  c: {when: {not_done: view, within: 400d}}
  d:
    when:
      done: view
      within: 7d
      then: {done: buy, gap: 401d}  #! segments.d.when.then.gap
  e:
    when:
      done: view
      within: 7d
      not_then: {done: buy, gap: 7d}  #! segments.e.when.not_then.gap
""",
    "numbers of times that cannot be": """
segments:
  a: {when: {done: view, within: 1d, at_least: 3, at_most: 2}}  #! segments.a.when.at_most
  b: {when: {done: view, within: 1d, exactly: 2, at_least: 1}}  #! segments.b.when.at_least
  c: {when: {done: view, within: 1d, at_least: 0, at_most: 2}}
  d: {when: {done: view, within: 1d, exactly: -1}}  #! segments.d.when.exactly
""",
    "bounds that leave no number": """
segments:
  a: {when: {signal: views, at_least: 3, below: 3}}  #! segments.a.when.below
  b: {when: {attribute: age, above: 30, at_most: 20}}  #! segments.b.when.at_most
  c: {when: {signal: views, equals: 4, at_most: 3}}  #! segments.c.when.at_most
  d: {when: {signal: views, at_least: 3, at_most: 3}}
  e:
    when:
      done: view
      within: 1d
      where: {value: {above: 9, below: 9}}  #! segments.e.when.where.value.below
""",
    "windows and dates that do not go together": """
segments:
  a: {when: {done: view}}  #! segments.a.when
  b: {when: {done: view, within: 1d, from: 2026-01-01}}  #! segments.b.when
  c: {when: {not_done: view, within: 1d, until: 2026-01-01}}  #! segments.c.when
  d: {when: {not_done: view, until: 2026-01-01}}  #! segments.d.when
  e: {when: {done: view, from: 2026-02-01, until: 2026-01-01}}  #! segments.e.when.until
  f: {when: {done: view, from: 2026-02-30, until: 2026-03-01}}  #! segments.f.when.from
  g: {when: {done: view, from: 2026-01-01T00:00:00}}  #! segments.g.when.from
  h: {when: {done: view, from: 2026-01-01T00:00:00+01:00, until: 2026-01-01}}
  i: {when: {done: v, from: 2026-01-01, then: {done: w, gap: 1h}}}  #! segments.i.when
  j:
    when:  #! segments.j.when
      done: v
      within: 7d
      then: {done: w, gap: 1h}
      not_then: {done: x, gap: 1h}
  k: {when: {done: v, within: 7d, then: {done: w}}}  #! segments.k.when.then.gap
""",
    "times of day, weekdays and zones that are none": """
segments:
  a: {when: {local_time: {from: 9am, to: "17:00"}}}  #! segments.a.when.local_time.from
  b: {when: {local_time: {from: "09:00", to: "24:30"}}}  #! segments.b.when.local_time.to
  c: {when: {local_time: {from: "09:00", to: "09:00"}}}  #! segments.c.when.local_time
  d: {when: {weekday: [mon, tues]}}  #! segments.d.when.weekday.1
  e: {when: {weekday: monday}}  #! segments.e.when.weekday
  f: {when: {weekday: mon, zone: Europe/Berlni}}  #! segments.f.when.zone
  g: {when: {weekday: [mon], local_time: {from: "22:00", to: "06:00"}, zone: Asia/Tokyo}}
  h: {when: {local_time: {from: "09:00"}}}  #! segments.h.when.local_time.to
""",
    "dates of attributes": """
segments:
  a: {when: {attribute: born, anniversary_within: 364d}}  #! segments.a.when.anniversary_within
  b: {when: {attribute: born, anniversary_within: 7}}  #! segments.b.when.anniversary_within
  c: {when: {attribute: ends, within_next: 10ms}}  #! segments.c.when.within_next
  d: {when: {attribute: ends, within_nxt: 7d}}  #! segments.d.when.within_nxt
  e: {when: {attribute: ends, within_last: 7d, exists: true}}
  f: {when: {attribute: ends}}  #! segments.f.when
""",
    "a text asked of a number, and a number of a text": """
signals:
  views: {kind: count, events: view, within: 7d}
  brand: {kind: last, events: view, of: properties.brand}
  first: {kind: first, events: view}
  value: {kind: rfm, events: buy, monetary: [1, 2, 3, 4]}
segments:
  a: {when: {signal: views, is: x}}  #! segments.a.when.is
  b: {when: {signal: views, one_of: [1, 2]}}  #! segments.b.when.one_of
  c: {when: {signal: brand, is: nike}}
  d: {when: {signal: brand, one_of: [nike], at_least: 3}}
  e: {when: {signal: brand, within: 7d}}  #! segments.e.when.within
  f: {when: {signal: brand, one_of: []}}  #! segments.f.when.one_of
  g: {when: {signal: first, at_least: 3}}  #! segments.g.when.at_least
  h: {when: {signal: first, within: 1d, not_within: 2d}}  #! segments.h.when.not_within
  i: {when: {signal: value, at_least: 9}}
  j: {when: {signal: value, key: recency, within: 7d}}
  k: {when: {signal: value, key: recency, at_most: 7}}  #! segments.k.when.at_most
  l: {when: {signal: value, key: scroe, at_least: 9}}  #! segments.l.when.key
  m: {when: {signal: brand, key: x, is: nike}}  #! segments.m.when.key
""",
    "intents and predictions that nobody declares": """
intents:
  buying: {done: cart, within: 1h}
  leaving: {signal: veiws, above: 1}  #! intents.leaving.signal
  stuck: {context: device, is: x}  #! intents.stuck.context
segments:
  a: {when: {intent: byuing}}  #! segments.a.when.intent
  b: {when: {intent: buying}}
  c: {when: {prediction: churn, at_least: 0.5}}  #! segments.c.when.prediction
  d: {when: {segment: buying}}  #! segments.d.when.segment
""",
    "segments and intents that need each other": """
segments:
  a: {when: {intent: second}}
intents:
  first: {segment: a}  #! intents.first.segment
  second: {done: view, within: 1h}
  third: {not: {intent: third}}  #! intents.third.not.intent
""",
    "spans that cannot be": """
segments:
  a:
    when: {signal: views, above: 1}
    for_at_least: 10ms  #! segments.a.for_at_least
    stay_at_least: 2d
    leave_after: 1d  #! segments.a.leave_after
  b:
    when: {signal: views, above: 1}
    stay_at_least: long  #! segments.b.stay_at_least
""",
    "sensitive data in use": """
sensitive: {attributes: [religion], tags: [health], context: [ip], properties: [note]}
signals:
  a: {kind: distinct, events: view, within: 1d, of: properties.note}  #! signals.a.of
  b: {kind: last, events: view, where: {context.ip: x}}  #! signals.b.where.context.ip
  c:
    kind: last
    events: view
    where: {content.tags: [x, health]}  #! signals.c.where.content.tags.1
  d: {kind: affinity, weights: {view: 1}}
  e:
    kind: affinity
    weights: {view: 1}
    of: content.attributes.religion  #! signals.e.of
segments:
  a: {when: {attribute: religion, exists: true}}  #! segments.a.when.attribute
  b:
    when:
      done: view
      within: 1d
      where: {properties.note: x}  #! segments.b.when.where.properties.note
  c: {when: {signal: d, key: health, above: 1}}  #! segments.c.when.key
placements:
  home:
    rewards: [click]
    eligibility: {context: ip, is: x}  #! placements.home.eligibility.context
    features:
      attributes: [plan, religion]  #! placements.home.features.attributes.1
      context: [ip]  #! placements.home.features.context.0
      content: [price, religion]  #! placements.home.features.content.1
""",
    "unknown signals and segments as features": """
placements:
  home:
    rewards: [click]
    features:
      signals: [views, clicks]  #! placements.home.features.signals.1
      segments: [vip]  #! placements.home.features.segments.0
""",
    "an unknown reward": """
placements:
  home: {rewards: [click, buy]}  #! placements.home.rewards.1
""",
    "a reward that is worth nothing": """
rewards:
  click: {events: click, value: 0, within: 1h}  #! rewards.click.value
""",
    "windows without length": """
rewards:
  click: {events: click, value: 1, within: 0s}  #! rewards.click.within
placements:
  home:
    rewards: [click]
    caps:
      - {max: 1, within: 1d}
      - {max: 1, within: 0d}  #! placements.home.caps.1.within
""",
    "the reserved level": """
placements:
  home: {level: 6, rewards: [click]}  #! placements.home.level
""",
    "a control event as a trigger": """
placements:
  home:
    rewards: [click]
    triggers: [view, consent_changed]  #! placements.home.triggers.1
  mail:
    rewards: [click]
    triggers: erasure_requested  #! placements.mail.triggers
""",
    "exploration that does not belong to its kind": """
placements:
  a: {rewards: [click], exploration: {epsilon: 0.1}}  #! placements.a.exploration.epsilon
  b:
    rewards: [click]
    exploration: {kind: greedy, floor: 0.1}  #! placements.b.exploration.floor
  c:
    rewards: [click]
    exploration: {kind: epsilon_greedy, gamma: 3}  #! placements.c.exploration.gamma
  d: {rewards: [click], exploration: {kind: epsilon_greedy, epsilon: 0.1, floor: 0.1}}
""",
    "numbers out of bounds": """
placements:
  home:
    rewards: [click]
    slots: 0  #! placements.home.slots
    model: {alpha: 11, bits: 9}  #! placements.home.model.alpha #! placements.home.model.bits
    exploration: {gamma: .nan}  #! placements.home.exploration.gamma
experiments:
  holdout:
    share: 1  #! experiments.holdout.share
""",
    "a rule about two fields": """
time:  #! time
  allowed_lateness: 1h
  dedupe_for: 1m
""",
    "the same key twice": """
signals:
  a: {kind: last, events: view}
  b: {kind: last, events: view}
  a: {kind: last, events: click}  #! signals.a
""",
    "a template left unfilled": """
description: {{ text }}  #! description #! description
""",
    "a tag of another language": "description: !!python/name:os.system x  #! description\n",
    "values nested too deeply": f"description: {'[' * 150}{']' * 150}  #! (document)\n",
    "a signal nobody declares, in a file broken elsewhere": """
segments:
  s: {when: {signal: veiws, at_least: 1}}  #! segments.s.when.signal
placements: 5  #! placements
rewards: {}
""",
    "a reward that is never used": """
rewards:
  click: {events: click, value: 1, within: 30m}
  buy: {events: buy, value: 5, within: 2d}  #? rewards.buy
""",
    "rewards that are all negative": """
rewards:
  no: {events: feedback, value: -1, within: 30m}
placements:
  home:
    rewards: [no]  #? placements.home.rewards
""",
    "nothing to tell profiles apart by": """
signals: {}
placements:
  home:
    rewards: [click]
    level: 2  #? placements.home.level
  mail:
    level: 1
""",
    "nothing to learn from": """
placements:
  home: {rewards: [click]}
  mail: {}  #? placements.mail.rewards
""",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_each_mistake_is_told_at_its_line_and_field(text: str) -> None:
    policy, mistakes = load_policy(completed(text), name="policy.yaml")
    report = "\n".join(map(str, mistakes))
    assert told(mistakes) == marked(text), report
    assert told(mistakes, "warning") == marked(text, "warning"), report
    assert (policy is None) == bool(marked(text))
    assert marked(text) or marked(text, "warning")


def test_a_file_with_many_mistakes_tells_all_of_them_at_once() -> None:
    text = (POLICIES / "many_mistakes.yaml").read_text()
    _, mistakes = load_policy(text, name="many_mistakes.yaml")
    assert told(mistakes) == marked(text)
    assert told(mistakes, "warning") == marked(text, "warning")
    assert len(marked(text)) >= 10


def test_a_mistake_reads_as_one_line_with_file_line_field_found_and_expected() -> None:
    mistake = one("segments:\n  s:\n    when:\n      signal: views\n      at_leat: 3\n")
    assert str(mistake) == (
        "policy.yaml:5: segments.s.when.at_leat: found 'at_leat' - expected one of at_least, "
        "at_most, above, below, equals, is, one_of, signal, key, within, not_within (did you mean "
        "at_least?)"
    )
    assert (mistake.line, mistake.column) == (5, 7)


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_no_message_speaks_of_the_machinery(text: str) -> None:
    for mistake in load_policy(completed(text), name="policy.yaml")[1]:
        assert mistake.file == "policy.yaml"
        assert mistake.line >= 1
        assert mistake.column >= 1
        assert mistake.field
        assert mistake.found
        assert mistake.expected
        line = str(mistake)
        assert "\n" not in line
        assert not re.search(r"pydantic|tuple|dict\b|Input should|ctx|object at", line), line


WORDS = {
    "signals:\n  a: {kind: cuont, events: x, within: 1d}": (
        "'cuont'",
        "one of count, sum, mean, min, max, distinct, last, first, ratio, affinity, sequence, "
        "streak, session, rfm (did you mean count?)",
    ),
    "segments:\n  s: {when: {sgnal: views}}": (
        '{"sgnal": "views"}',
        "a condition: a mapping with one of all, any, not, signal, attribute, context, segment, "
        "intent, prediction, done, not_done, local_time, weekday (did you mean signal?)",
    ),
    "segments: {a: {when: {segment: b}}, b: {when: {segment: a}}}": (
        "the cycle a -> b -> a",
        "segments and intents that do not need each other",
    ),
    "segments: {s: {when: {weekday: mon, zone: Europe/Berlni}}}": (
        "'Europe/Berlni'",
        "a time zone, as in Europe/Berlin (did you mean Europe/Berlin?)",
    ),
    "segments: {s: {when: {done: view, from: yesterday}}}": (
        "'yesterday'",
        "a date, or a date and time with an offset, as in 2026-01-31 or 2026-01-31T12:00:00Z",
    ),
    "segments: {s: {when: {local_time: {from: 9, to: 17:00}}}}": (
        "9",
        "a time of day in quotes, as in '09:30'",
    ),
    "segments: {s: {when: {done: view, within: 1d, at_least: 5, at_most: 2}}}": (
        "2",
        "a number that at_least 5 leaves possible",
    ),
    "intents: {buying: {done: cart, within: 1h}}\nsegments: {s: {when: {intent: byuing}}}": (
        "'byuing'",
        "a declared intent: buying (did you mean buying?)",
    ),
    "signals: {a: {kind: last, events: x}, a: {kind: last, events: y}}": (
        "'a' again",
        "it once: first on line 1",
    ),
    "signals: {a: {kind: count, events: x}}": (
        "nothing",
        "a duration: a whole number and a unit, as in 30m",
    ),
    "placements: {home: {rewards: [clik]}}\nrewards: {}": (
        "'clik'",
        "a declared reward: nothing: none is declared",
    ),
    "placements: {home: {rewards: [click], slots: many}}": ("'many'", "a whole number"),
    "name: 5": ("5", "text (in quotes)"),
    f"name: {'x' * 100}": (f"'{'x' * 56}...", "text of at most 64 characters"),
    "time: {allowed_lateness: 1h}": (
        '{"allowed_lateness": "1h"}',
        "dedupe_for to be at least allowed_lateness",
    ),
}


@pytest.mark.parametrize("text", WORDS)
def test_the_found_and_the_expected_are_in_the_words_of_the_file(text: str) -> None:
    mistake = one(text)
    assert (mistake.found, mistake.expected) == WORDS[text]


SYNTAX: dict[str, tuple[str, Expected]] = {
    "an unclosed list": ("name: shop\nsignals: [a,\n", [(3, "(document)")]),
    "a tab": ("name: shop\ntime:\n\tmax_age: 1d\n", [(3, "(document)")]),
    "an unclosed quote": ("name: 'shop\n", [(2, "(document)")]),
    "two colons": ("name: a: b\n", [(1, "(document)")]),
    "an unknown alias": ("name: shop\ntime: *t\n", [(2, "(document)")]),
    "two documents": ("name: shop\n---\nname: b\n", [(2, "(document)")]),
    "an empty file": ("# nothing\n", [(1, "(document)")]),
    "a control character": ("name: shop\ndescription: \x01\n", [(2, "(document)")]),
    "a list": ("- name\n", [(1, "(document)")]),
    "an endless alias": ("a: &a [*a]\n", [(1, "(document)")]),
    "half of a character": ('name: "\\ud800x"\n', [(1, "name"), (1, "name"), (1, "placements")]),
    "an unclosed heap": ("[" * 700, [(1, "(document)")]),
}


@pytest.mark.parametrize("case", SYNTAX)
def test_broken_yaml_is_told_with_its_line(case: str) -> None:
    text, expected = SYNTAX[case]
    policy, mistakes = load_policy(text, name="policy.yaml")
    assert policy is None
    assert told(mistakes) == expected, [str(m) for m in mistakes]


def test_aliases_of_aliases_are_refused_before_they_fill_the_memory() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    _, mistakes = load_policy("\n".join(levels), name="policy.yaml")
    assert any(mistake.found == "too many values" for mistake in mistakes)


def test_norway_is_a_country_and_off_is_a_word() -> None:
    text = "segments: {s: {when: {attribute: country, one_of: [no, NO, off, yes]}}}"
    policy, mistakes = load_policy(completed(text), name="policy.yaml")
    assert not mistakes
    assert policy is not None
    assert policy.segments["s"].when.model_dump()["one_of"] == ("no", "NO", "off", "yes")


def test_a_character_that_json_escapes_in_two_halves_is_one() -> None:
    policy, mistakes = load_policy(
        json.dumps({"name": "s", "description": "😀 é", "placements": {"home": {"level": 1}}}),
        name="policy.json",
    )
    assert not mistakes
    assert policy is not None
    assert policy.description == "😀 é"


def test_the_example_policy_and_catalogue_hold_no_mistake() -> None:
    checked = load_files(SHOP, catalogue=SHOP_CATALOGUE)
    assert [str(mistake) for mistake in checked.mistakes] == []
    assert checked.policy is not None
    assert checked.contents is not None
    assert [content.content_id for content in checked.contents] == ["c1", "c2", "c3"]


SHOP_TEXT = SHOP.read_text()


def with_catalogue(catalogue: str, *, policy: str = SHOP_TEXT, name: str = "c.yaml") -> Checked:
    return load(policy, policy_name="p.yaml", catalogue_text=catalogue, catalogue_name=name)


def in_catalogue(checked: Checked, severity: Severity = "error") -> Expected:
    return told([m for m in checked.mistakes if m.file != "p.yaml"], severity)


ENOUGH = "- {content_id: c1, type: product, tags: [sale], attributes: {brand: x}}\n"

CATALOGUES = {
    "an unknown field": "- content_id: a\n  colour: red  #! colour\n",
    "no id": "- type: product  #! content_id\n",
    "not a mapping": "- just text  #! (document)\n",
    "an id twice": "- {content_id: a}\n- {content_id: b}\n- {content_id: a}  #! content_id\n",
    "an unknown placement": """
- content_id: a
  placements:
    - home
    - hoem  #! placements.1
""",
    "unknown names in eligibility": """
- content_id: a
  eligibility:
    all:
      - {segment: vip}  #! eligibility.all.0.segment
      - {signal: viewz, at_least: 1}  #! eligibility.all.1.signal
      - {signal: views, key: x, at_least: 1}  #! eligibility.all.2.key
      - {attribute: religion, exists: true}  #! eligibility.all.3.attribute
      - {context: device, is: mobile}
      - {sgment: active}  #! eligibility.all.5
""",
    "a number that is a text elsewhere": """
- {content_id: a, attributes: {price: 1, new: true}}
- {content_id: b, attributes: {price: 2}}
- content_id: c
  attributes:
    price: "3"  #! attributes.price
    new: "yes"
""",
    "dates the wrong way round": """
- content_id: a  #! (document)
  valid_from: 2026-02-01T00:00:00Z
  valid_until: 2026-01-01T00:00:00Z
""",
    "a date without an offset": "- content_id: a\n  valid_from: 2026-01-01  #! valid_from\n",
    "an attribute that is a list": """
- content_id: a
  attributes: {size: [1, 2]}  #! attributes.size
""",
}


@pytest.mark.parametrize("text", CATALOGUES.values(), ids=CATALOGUES.keys())
def test_each_mistake_of_a_catalogue_is_told_at_its_line_and_field(text: str) -> None:
    text = text.rstrip("\n") + "\n" + ENOUGH
    checked = with_catalogue(text)
    assert in_catalogue(checked) == marked(text), [str(m) for m in checked.mistakes]
    assert checked.contents is None
    assert checked.policy is not None  # its own file is right


def test_json_lines_give_the_line_of_each_mistake() -> None:
    lines = [
        '{"content_id": "c1", "type": "product", "tags": ["sale"]}',
        "",
        '{"content_id": "a", "colour": "red"}',
        '{"content_id": "c1"}',
        "{not json}",
        '{"content_id": "b", "stock": 1, "stock": 2}',
        "[" * 100_000,
        '{"content_id": "d", "priority": NaN}',
        '{"content_id": "e", "stock": ' + "9" * 5_000 + "}",
        '{"content_id": "\\ud800"}',
        '{"content_id": "f", "eligibility": ' + '{"not":' * 150 + "{}" + "}" * 151,
        '{"content_id": "g\u2028"}',
    ]
    checked = with_catalogue("\n".join(lines), name="c.jsonl.gz")
    assert in_catalogue(checked) == [
        (3, "colour"),
        (4, "content_id"),
        (5, "(document)"),
        (6, "stock"),
        (7, "(document)"),
        (8, "priority"),
        (9, "(document)"),
        (10, "(document)"),
        (11, "(document)"),
    ], [str(m) for m in checked.mistakes]
    assert all(str(mistake).isprintable() for mistake in checked.mistakes)


def test_the_second_use_of_an_id_names_the_first() -> None:
    _, mistakes = load_catalogue("- content_id: a\n- content_id: a\n", name="c.yaml")
    assert [mistake.expected for mistake in mistakes] == ["an id of its own: it is first on line 1"]


def test_a_fallback_that_is_not_in_the_catalogue_is_a_mistake_of_the_policy() -> None:
    checked = with_catalogue("- {content_id: c11, type: product, tags: [sale]}\n")
    (mistake,) = [m for m in checked.mistakes if m.severity == "error"]
    assert mistake.field == "placements.home.fallback.contents.0"
    assert mistake.file == "p.yaml"
    assert mistake.expected == "a content of the catalogue (did you mean c11?)"
    assert checked.policy is None
    assert checked.contents is not None


def test_a_placement_without_candidates_is_a_warning() -> None:
    checked = with_catalogue(ENOUGH.replace("product", "article"))
    assert [m.field for m in checked.mistakes if m.severity == "warning"] == ["placements.home"]
    assert not checked.failed
    assert checked.policy is not None


def test_a_feature_that_no_content_has_is_a_warning() -> None:
    checked = with_catalogue(ENOUGH.replace("brand", "brnd"))
    (mistake,) = checked.mistakes
    assert mistake.severity == "warning"
    assert mistake.field == "placements.home.features.content.0"
    assert mistake.expected == "an attribute of the catalogue: brnd (did you mean brnd?)"


def test_contents_with_a_sensitive_tag_are_warned_of_once() -> None:
    text = ENOUGH + "- {content_id: a, tags: [health]}\n- {content_id: b, tags: [health]}\n"
    checked = with_catalogue(text)
    (mistake,) = checked.mistakes
    assert mistake.severity == "warning"
    assert mistake.field == "sensitive.tags.0"
    assert mistake.found == "'health' on 2 contents (first: a, line 2)"


def test_a_broken_policy_does_not_hide_the_mistakes_of_the_catalogue() -> None:
    checked = with_catalogue("- {content_id: c1, placements: [hoem]}\n", policy="placements: {}\n")
    assert {(m.file, m.field) for m in checked.mistakes} >= {
        ("p.yaml", "name"),
        ("p.yaml", "placements"),
        ("c.yaml", "placements.0"),
    }


def test_check_prints_mistakes_in_file_order_and_counts_them(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text((POLICIES / "many_mistakes.yaml").read_text())
    code, output = checked_output(policy)
    assert code == FAILED == 2
    *lines, last = output.splitlines()
    numbers = [int(line.split(":")[1]) for line in lines]
    assert numbers == sorted(numbers)
    assert all(line.startswith(f"{policy}:") for line in lines)
    assert last == "11 mistakes, 2 warnings"


def checked_output(policy: Path, catalogue: Path | None = None) -> tuple[int, str]:
    file = io.StringIO()
    # Narrow on purpose: a line must not be wrapped, whatever the terminal.
    code = check(policy, catalogue, console=Console(file=file, width=20))
    return code, file.getvalue()


def test_check_says_what_it_found_right() -> None:
    assert checked_output(SHOP, SHOP_CATALOGUE) == (
        PASSED,
        "policy shop: 5 signals, 3 segments, 2 placements; catalogue: 3 contents - no mistakes\n",
    )


def test_warnings_alone_do_not_fail_a_check(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: shop\nplacements: {home: {}}\n")
    code, output = checked_output(policy)
    assert code == PASSED
    assert output.splitlines()[-1] == (
        "policy shop: 0 signals, 0 segments, 1 placement - no mistakes, 2 warnings"
    )


def test_markup_in_a_file_is_printed_and_not_obeyed(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text('name: shop\nplacements: {}\n"[red]\\e[2J": 1\n')
    _, output = checked_output(policy)
    assert "[red]\\x1b[2J: found '[red]\\x1b[2J'" in output


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("none.yaml", None, "no such file"),
        ("latin.yaml", b"name: shop\ndescription: caf\xe9\n", "byte 0xe9"),
        ("c.jsonl.gz", b"not gzip", "no gzip data"),
        ("cut.yaml.gz", gzip.compress(b"name: shop\n" * 99)[:-9], "no gzip data"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_fails(
    tmp_path: Path, name: str, content: bytes | None, found: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    code, output = checked_output(path)
    assert code == FAILED
    assert output.startswith(f"{path}:{2 if 'latin' in name else 1}: (file): found {found} - ")
    assert output.splitlines()[1:] == ["1 mistake"]
    code, output = checked_output(SHOP, path)
    assert code == FAILED
    assert output.splitlines()[1:] == ["1 mistake"]


def test_packed_files_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    policy, catalogue = tmp_path / "policy.yaml.gz", tmp_path / "catalogue.jsonl.gz"
    policy.write_bytes(gzip.compress(b"\xef\xbb\xbf" + SHOP.read_bytes()))
    line = {"content_id": "c1", "type": "product", "tags": ["sale"], "attributes": {"brand": 1}}
    catalogue.write_bytes(gzip.compress(json.dumps(line).encode()))
    assert checked_output(policy, catalogue)[0] == PASSED


def test_a_digest_names_the_meaning_and_not_the_writing() -> None:
    def digest(text: str) -> str:
        policy, mistakes = load_policy(completed(text), name="policy.yaml")
        assert policy is not None, mistakes
        return policy_digest(policy)

    plain = digest("")
    assert re.fullmatch("[0-9a-f]{12}", plain)
    assert digest("# a comment\nretention: {pending: 8}\n") == plain  # the default, written out
    assert digest("placements: {home: {level: 4, rewards: [click]}}") == plain
    assert digest("rewards: {click: {within: 1800s, value: 1.0, events: [click]}}") == plain
    assert digest("retention: {pending: 9}") != plain


def test_a_catalogue_version_does_not_depend_on_the_order() -> None:
    checked = load_files(SHOP, catalogue=SHOP_CATALOGUE)
    assert checked.contents is not None
    contents = checked.contents
    assert catalogue_version(reversed(contents)) == catalogue_version(contents)
    assert catalogue_version(contents[1:]) != catalogue_version(contents)
    changed = contents[0].model_copy(update={"priority": 1.0})
    assert catalogue_version([changed, *contents[1:]]) != catalogue_version(contents)


def test_ten_thousand_contents_are_loaded_in_seconds() -> None:
    line = {
        "content_id": "",
        "tags": ["sale", "new"],
        "attributes": {"price": 1.5, "brand": "x"},
        "eligibility": {"all": [{"segment": "active"}, {"not": {"signal": "views", "above": 9}}]},
    }
    text = "\n".join(json.dumps({**line, "content_id": f"c{i}"}) for i in range(10_000))
    began = time.process_time()
    contents, mistakes = load_catalogue(text, name="c.jsonl")
    spent = time.process_time() - began
    assert not mistakes
    assert contents is not None
    assert len(contents) == 10_000
    # About 1 s of CPU where it was measured; the bound only catches what is no longer linear.
    assert spent < 20


def yaml_of(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text())


def plain(value: Any) -> Any:
    """The value as JSON can hold it: dates as text."""
    return json.loads(json.dumps(value, default=lambda moment: moment.isoformat()))


def parts(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [path, *(found for key, part in inner for found in parts(part, (*path, key)))]


RAW_SHOP = plain(yaml_of(SHOP))
RAW_CATALOGUE = plain(
    [{**content, "valid_until": None, "valid_from": None} for content in yaml_of(SHOP_CATALOGUE)]
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 100),
    st.floats(),
    st.sampled_from(["views", "tastes", "active", "click", "home", "1d", "100d", "x", "sale"]),
    st.text(max_size=5),
    st.lists(st.sampled_from(["views", "x", 1, None, {}]), max_size=2),
    st.dictionaries(
        st.sampled_from(["signal", "not", "all", "segment", "at_least", "kind", "context", "x"]),
        st.sampled_from(["views", "tastes", "active", 1, [], {}, {"segment": "lapsed"}]),
        max_size=3,
    ),
)


def replaced(whole: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    whole = copy.deepcopy(whole)
    part = whole
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return whole


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(parts(RAW_SHOP)), VALUES, st.sampled_from(parts(RAW_CATALOGUE)), VALUES)
def test_whatever_stands_in_a_file_is_a_mistake_or_compiles(
    in_policy: tuple[str | int, ...], one: Any, in_contents: tuple[str | int, ...], other: Any
) -> None:
    policy = replaced(RAW_SHOP, in_policy, one)
    contents = replaced(RAW_CATALOGUE, in_contents, other)
    lines = contents if isinstance(contents, list) else [contents]
    checked = load(
        json.dumps(policy),
        policy_name="p.yaml",
        catalogue_text="\n".join(map(json.dumps, lines)),
        catalogue_name="c.jsonl",
    )
    assert checked.failed == (checked.policy is None or checked.contents is None)
    if checked.policy is not None and checked.contents is not None:
        compile_plan(checked.policy, checked.contents, policy_digest="p", catalogue_version="c")


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}#&*!|>'\"%@?, \n\t\x00é\ud800"), max_size=40))
def test_no_text_at_all_breaks_the_readers(text: str) -> None:
    for name in ("p.yaml", "c.jsonl"):
        checked = load(text, policy_name="policy", catalogue_text=text, catalogue_name=name)
        assert checked.policy is None
        for mistake in checked.mistakes:
            assert str(mistake).isprintable()


def test_a_policy_read_is_the_policy_meant() -> None:
    policy, _ = load_policy(SHOP_TEXT, name="policy.yaml")
    assert policy == Policy.model_validate(RAW_SHOP)
