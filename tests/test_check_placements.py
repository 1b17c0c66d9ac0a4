"""What a check says of placements, rewards, reasons and groups that name or mix what cannot be."""

from __future__ import annotations

import pytest

from schemas.check import load
from schemas.check_conditions import _KINDS
from schemas.check_placements import personal_reads
from tests.test_check import completed, in_catalogue, marked, one, told, with_catalogue

CHANGES = "experiments.tests.t.variants.b.changes"
POLICIES = {
    "segments that are not declared": """
segments: {active: {when: {attribute: a, is: 1}}}
placements:
  home:
    rewards: [click]
    entering: [activ]  #! placements.home.entering.0
    leaving: [active, gone]  #! placements.home.leaving.1
    fallback:
      segments:
        active: [c1]
        idle: [c1]  #! placements.home.fallback.segments.idle
""",
    "what must be known and never is": """
placements:
  home:
    rewards: [click]
    needs: {signals: [views, vews]}  #! placements.home.needs.signals.1
  mail:
    level: 2
    needs: {rewarded: 5}  #! placements.mail.needs.rewarded
""",
    "caps that do not suit each other": """
placements:
  home:
    rewards: [click]
    caps:
      - {max: 1, within: 1d, per: channel}  #! placements.home.caps.0.per
      - {max: 1, within: 1d, per: placement, over: everybody}  #! placements.home.caps.1.over
      - {max: 1, within: 1d, hard: true}  #! placements.home.caps.2.hard
      - {max: 100, within: 1d, per: tag, over: everybody, hard: true}
      - {max: 1, within: 0s}  #! placements.home.caps.4.within
  mail:
    channel: email
    rewards: [click]
    caps: [{max: 1, within: 1d, per: channel}]
""",
    "one answer for everybody that depends on one person": """
segments: {active: {when: {signal: views, at_least: 1}}}
placements:
  a: {rewards: [click], shared: true}  #! placements.a.shared
  b:
    shared: true
    level: 1
    rewards: [click]
    eligibility: {attribute: plan, is: free}  #! placements.b.eligibility
    caps:
      - {max: 1, within: 1d}  #! placements.b.caps.0
      - {max: 1, within: 1d, over: everybody}
    coherence: {within: 1h}  #! placements.b.coherence
    needs: {signals: [views]}  #! placements.b.needs.signals
  c:
    shared: true
    level: 0
    eligibility: {all: [{segment: active}, {not: {segment: active}}]}
  d:
    shared: true
    level: 0
    eligibility: {any: [{segment: active}, {context: country, is: de}]}  #! placements.d.eligibility
""",
    "a placement that is never personalised, and is": """
placements:
  legal:
    never_personalised: true
    rewards: [click]  #! placements.legal.rewards
    features: {context: [device]}  #! placements.legal.features
    exploration: {floor: 0.1}  #! placements.legal.exploration
    fallback: {contents: [c1]}
  plain: {never_personalised: true}
  home: {rewards: [click]}
""",
    "an apprentice without rewards": """
placements:
  a: {level: 1, learning: apprentice}  #! placements.a.learning
  b: {level: 1, learning: apprentice, rewards: [click]}
""",
    "exploration that its kind does not know": """
placements:
  a:
    rewards: [click]
    exploration: {temperature: 0.2}  #! placements.a.exploration.temperature
  b: {rewards: [click], exploration: {kind: softmax, temperature: 0.2, optimism: 1, floor: 0}}
  c:
    rewards: [click]
    exploration: {kind: softmax, draws: 64}  #! placements.c.exploration.draws
  d: {rewards: [click], exploration: {kind: thompson, draws: 64, spread: 1, budget: 0.5}}
  e:
    rewards: [click]
    exploration: {kind: epsilon_greedy, spread: 1}  #! placements.e.exploration.spread
  f:
    rewards: [click]
    exploration: {kind: uniform, optimism: 1}  #! placements.f.exploration.optimism
  g:
    rewards: [click]
    exploration: {kind: greedy, budget: 1}  #! placements.g.exploration.budget
""",
    "factors of a model that has none": """
placements:
  a: {rewards: [click], model: {kind: popularity, factors: 4}}  #! placements.a.model.factors
  b: {rewards: [click], model: {kind: factorised, factors: 4}}
  c: {rewards: [click], model: {factors: 4}}
  d: {rewards: [click], model: {kind: per_content, factors: 0}}
""",
    "limits and coherence": """
sensitive: {attributes: [faith]}
placements:
  a:
    rewards: [click]
    slots: 3
    coherence: {within: 91d}  #! placements.a.coherence.within
    diversity:
      - {by: attributes.faith}  #! placements.a.diversity.0.by
      - {by: type, most: 3}  #? placements.a.diversity.1
      - {by: tags, most: 2}
  b: {rewards: [click], coherence: {within: 0s}}  #! placements.b.coherence.within
""",
    "a fallback of nothing, and of something": """
placements:
  a: {rewards: [click], fallback: {none: true, popular: true}}  #! placements.a.fallback.popular
  b: {level: 1, fallback: {popular: true}}  #? placements.b.fallback.popular
""",
    "pages": """
placements:
  a: {rewards: [click], page: home}
  b: {rewards: [click], page: home, page_within: 0s}  #! placements.b.page_within
  c: {rewards: [click], page: hone}  #? placements.c.page
  d: {rewards: [click], page_within: 5s}  #! placements.d.page_within
""",
    "what a variant changes": """
experiments:
  tests:
    t:
      variants:
        a: {}
        b:
          changes:
            rewards: [buy]
            exploration: {kind: igw, epsilon: 0.1}  #! CHANGES.exploration.epsilon
            model: {kind: popularity, factors: 2}  #! CHANGES.model.factors
            fallback: {none: true, contents: [c1]}  #! CHANGES.fallback.contents
rewards:
  click: {events: click, value: 1, within: 30m}
  buy: {events: purchase, value: 1, within: 30m}
""",
    "rewards": """
sensitive: {attributes: [faith], properties: [income]}
rewards:
  click: {events: click, value: 1, within: 1d, at_most: 5}  #! rewards.click.at_most
  buy: {events: buy, value: 1, times: value, at_most: 500, within: 1d}
  odd: {events: buy, value: 1, times: attributes.faith, within: 1d}  #! rewards.odd.times
  rich:
    events: buy
    value: 1
    within: 1d
    where: {properties.income: {above: 5}}  #! rewards.rich.where.properties.income
placements: {home: {rewards: [click, buy, odd, rich]}}
""",
    "Global Privacy Control twice": """
consent:
  personalise: ads
  gpc: [learn, personalise, learn]  #! consent.gpc.2
""",
    "reasons": """
reasons:
  private: [views, vews]  #! reasons.private.1
  templates:
    affinity:
      en: "{titel} for you"  #! reasons.templates.affinity.en
      de: "{title}: {value"  #! reasons.templates.affinity.de
    popular: {de: "{title}, beliebt"}  #? reasons.templates.popular
    mine: {en: "{title}, {value}"}
""",
    "groups": """
sensitive: {attributes: [faith]}
monitoring:
  every: 0s  #! monitoring.every
  groups:
    belief: {attribute: faith}  #! monitoring.groups.belief.attribute
    age: {attribute: age_group}
""",
    "a probability that nothing reaches": """
predictions:
  buys: {target: {done: purchase, within: 7d}}
  spends: {target: {sum: purchase, of: value, within: 7d}}
segments:
  a: {when: {prediction: buys, at_least: 70}}  #! segments.a.when.at_least
  b: {when: {not: {prediction: buys, below: -0.1}}}  #! segments.b.when.not.below
  c: {when: {prediction: buys, at_least: 0, at_most: 1}}
  d: {when: {prediction: spends, at_least: 70}}
""",
    "a gap that outlasts its window": """
signals:
  views: {kind: count, events: view, within: 7d}
  left:
    kind: sequence
    first: {events: cart}
    not_then: {events: buy}
    gap: 2d  #! signals.left.gap
    within: 1d
  came: {kind: sequence, first: {events: cart}, then: {events: buy}, gap: 2d, within: 1d}
""",
}


@pytest.mark.parametrize("text", POLICIES.values(), ids=POLICIES.keys())
def test_each_mistake_of_a_placement_is_told_at_its_line_and_field(text: str) -> None:
    text = text.replace("CHANGES", CHANGES)
    mistakes = load(completed(text), policy_name="policy.yaml").mistakes
    assert told(mistakes) == marked(text), [str(m) for m in mistakes]
    assert told(mistakes, "warning") == marked(text, "warning"), [str(m) for m in mistakes]


def test_the_words_say_what_was_meant_and_why() -> None:
    shared = "placements: {home: {rewards: [click], shared: true}}"
    assert one(shared).expected.startswith("level: 0 or 1: what one person did must not show")
    entering = "segments: {vip: {when: {attribute: a, is: 1}}}\n"
    entering += "placements: {home: {rewards: [click], entering: [vjp]}}"
    assert one(entering).expected == "a declared segment: vip (did you mean vip?)"
    exploring = "placements: {home: {rewards: [click], exploration: {draws: 64}}}"
    assert one(exploring).expected == "no draws: it belongs to thompson, the kind is igw"
    sentence = 'reasons: {templates: {popular: {en: "{titel}"}}}'
    assert one(sentence).expected == (
        "one of {title}, {value} (did you mean {title}?): a sentence with anything else is not told"
    )


# --- with the catalogue --------------------------------------------------------------------------

CATALOGUES = {
    "tags that press and shame": """
- content_id: a
  tags: [sale, false_urgency]  #! tags.1
- {content_id: b, tags: [guilt_free]}
- content_id: d
  tags:
    - guilt  #! tags.0
    - confirmshaming  #! tags.1
""",
    "a prompt that needs what it asks for": """
- content_id: a
  asks_consent: ads
  needs_consent: ads  #! needs_consent #? needs_consent
""",
    "purposes that no use of the policy has": """
- {content_id: a, needs_consent: personalization}
- {content_id: b, needs_consent: analytics}
- content_id: d
  asks_consent: analytic  #? asks_consent
- {content_id: e, needs_consent: analytic}
""",
    "titles without the language that is fallen back to": """
- {content_id: a, title: Shoe}
- {content_id: b, title: {en: Shoe, de: Schuh}}
- content_id: d
  title: {de: Hut}  #? title
- {content_id: e, title: {fr: Robe}}
""",
}
BASE = """
name: shop
consent: {collect: analytics, personalise: personalization}
rewards: {click: {events: click, value: 1, within: 1d}}
placements: {home: {level: 1, rewards: [click]}}
"""


@pytest.mark.parametrize("text", CATALOGUES.values(), ids=CATALOGUES.keys())
def test_each_mistake_of_a_content_is_told_at_its_line_and_field(text: str) -> None:
    checked = with_catalogue(text, policy=BASE)
    assert in_catalogue(checked) == marked(text), [str(m) for m in checked.mistakes]
    assert in_catalogue(checked, "warning") == marked(text, "warning")


def test_a_refused_tag_says_why_and_the_policy_says_which() -> None:
    hurried = "- {content_id: a, tags: [false_urgency]}\n"
    (mistake,) = with_catalogue(hurried, policy=BASE).mistakes
    assert mistake.expected == (
        "a content that may be shown: the policy refuses this tag (refused_tags), for what presses "
        "or shames people is not theirs to choose"
    )
    assert not with_catalogue(hurried, policy=BASE + "refused_tags: [gambling]\n").mistakes
    assert with_catalogue(
        "- {content_id: a, tags: [gambling]}\n", policy=BASE + "refused_tags: [gambling]\n"
    ).failed


def test_titles_and_purposes_are_told_once_and_counted() -> None:
    lines = "".join(
        f"- {{content_id: a{i}, title: {{de: Hut}}, asks_consent: ads}}\n" for i in range(9)
    )
    found = [m.found for m in with_catalogue(lines, policy=BASE).mistakes]
    assert sorted(found) == [
        "'ads', which the policy's consent does not name",
        "no title in 'en' (and of 8 more)",
    ]


POLICIES_WITH_CATALOGUE = {
    "contents that are not there": """
segments: {active: {when: {attribute: a, is: 1}}}
placements:
  home:
    rewards: [click]
    fallback:
      segments: {active: [c1, c9]}  #! placements.home.fallback.segments.active.1
      contents: [c2]
experiments:
  tests:
    t:
      variants:
        a: {}
        b:
          changes:
            fallback: {contents: [c7]}  #! CHANGES.fallback.contents.0
""",
    "attributes that no content has": """
placements:
  home:
    rewards: [click]
    slots: 2
    diversity: [{by: attributes.brnd}, {by: attributes.brand}]  #? placements.home.diversity.0.by
monitoring:
  groups:
    maker: {of: content, attribute: maker}  #? monitoring.groups.maker.attribute
    plan: {attribute: plan}
""",
    "a reward times no number": """
rewards:
  click: {events: click, value: 1, times: attributes.price, within: 1d}
  buy: {events: buy, value: 1, times: attributes.brand, within: 1d}  #! rewards.buy.times
  read: {events: read, value: 1, times: attributes.length, within: 1d}  #? rewards.read.times
placements: {home: {rewards: [click, buy, read]}}
""",
}
CATALOGUE = """
- {content_id: c1, type: product, attributes: {brand: acme, price: 3}}
- {content_id: c2, type: product, tags: [sale], attributes: {brand: zen, price: 4}}
"""


@pytest.mark.parametrize(
    "text", POLICIES_WITH_CATALOGUE.values(), ids=POLICIES_WITH_CATALOGUE.keys()
)
def test_what_a_policy_names_is_looked_up_in_the_catalogue(text: str) -> None:
    text = text.replace("CHANGES", CHANGES)
    mistakes = with_catalogue(CATALOGUE, policy=completed(text)).mistakes
    assert told(mistakes) == marked(text), [str(m) for m in mistakes]
    assert told(mistakes, "warning") == marked(text, "warning")


@pytest.mark.parametrize("kind", _KINDS)
def test_every_kind_of_condition_is_about_one_person_or_about_segments(kind: str) -> None:
    inner = {"signal": "views"}
    leaves = {"all": [inner], "any": [inner], "not": inner}
    asked = personal_reads({kind: leaves.get(kind, "x")})
    about_one = "signal views" if kind in leaves else f"{kind} x"
    assert asked == ([] if kind == "segment" else [about_one])


def test_a_content_that_asks_about_one_person_is_not_for_a_shared_answer() -> None:
    part = "part: {level: 1, rewards: [click], shared: true}"
    policy = BASE.replace("placements: {", f"placements: {{{part}, ")
    policy += "segments: {vip: {when: {attribute: plan, is: vip}}}\n"
    text = """
- {content_id: a, eligibility: {not: {segment: vip}}}
- content_id: b
  eligibility: {not: {any: [{attribute: plan, is: vip}, {weekday: [mon, tue]}]}}  #! eligibility
- {content_id: d, placements: [home], eligibility: {attribute: plan, is: vip}}
"""
    checked = with_catalogue(text, policy=policy)
    assert in_catalogue(checked) == marked(text), [str(m) for m in checked.mistakes]
    assert checked.mistakes[0].found == "a condition on attribute plan, weekday mon, tue"


def test_contents_marked_sensitive_are_no_candidates_where_the_placement_says_so() -> None:
    lines = "- {content_id: a, sensitive: true}\n"
    closed = BASE.replace("level: 1", "level: 1, candidates: {sensitive: false}")
    assert not with_catalogue(lines, policy=BASE).mistakes
    (mistake,) = with_catalogue(lines, policy=closed).mistakes
    assert mistake.found == "no candidate in the catalogue"
