"""What is said of an item: in whose language, naming what, and never what is nobody's business."""

from __future__ import annotations

import re
from typing import Any, Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.plan import Plan
from operators.profile import Profile
from operators.reason_texts import (
    BUILT_IN,
    LONGEST_TEXT,
    LONGEST_TITLE,
    Languages,
    Reason,
    Texts,
    language_of,
    legible,
)
from operators.reasons import Liking, fallback_reason, item_reasons, likes
from schemas.catalogue import Content
from schemas.decisions import FallbackReason, ItemSource
from schemas.guidance import Reasons
from tests.operators.builders import T0, arrived, content, plan, policy, profile
from tests.operators.decision_builders import deciding, follow

SHOES: Final = content("shoe", tags=["trail_running"], title="Trail shoes")
PLAIN: Final = content("shoe", tags=["trail_running"])
LIKED: Final[list[Liking]] = [("taste", lambda c: c.tags, {"trail_running": 2.0, "red": 1.0})]


def texts_of(**templates: dict[str, str]) -> Texts:
    return Texts(Reasons(templates=templates))


def said(of: Content = SHOES, **fields: Any) -> Reason:
    """The one reason of an item, by default greedy and of a person who likes trail running."""
    [reason] = item_reasons(of, **{"liked": LIKED, "greedy": True, **fields})
    return reason


# What is said.


def test_what_comes_before_why() -> None:
    assert said() == {
        "code": "affinity:taste=trail_running",
        "text": "Trail shoes, because you like trail running",
    }
    assert said(PLAIN)["text"] == "Because you like trail running"


def test_the_strongest_liking_that_the_content_has_is_named() -> None:
    assert said(content("c", tags=["red", "trail_running"]))["code"].endswith("=trail_running")
    assert said(content("c", tags=["red", "blue"]))["text"] == "Because you like red"


def test_an_item_drawn_to_explore_says_so() -> None:
    assert said(greedy=False) == {
        "code": "explored",
        "text": "Trail shoes, something new to discover",
    }


def test_where_nothing_may_be_named_it_was_picked() -> None:
    assert said(liked=[])["code"] == "predicted"
    assert said(liked=[], popular=True) == {
        "code": "popular",
        "text": "Trail shoes, popular right now",
    }


@pytest.mark.parametrize("source", [s for s in get_args(ItemSource) if s != "model"])
def test_who_put_it_there_is_told(source: str) -> None:
    reason = said(liked=[], source=source)
    assert reason["code"] == source
    assert reason["text"].startswith("Trail shoes, ")


def test_what_stayed_in_place_is_told_by_what_is_liked_about_it() -> None:
    assert said(source="sticky")["code"] == "affinity:taste=trail_running"
    assert said(source="forced")["code"] == "forced", "nobody's liking put it there"


def test_a_rule_names_its_reason() -> None:
    texts = texts_of(summer={"en": "{title} for the summer"})
    assert said(source="pinned", rule="summer", texts=texts) == {
        "code": "summer",
        "text": "Trail shoes for the summer",
    }
    told = said(source="pinned", rule="winter", texts=texts)
    assert told == {"code": "winter", "text": "Trail shoes, recommended by our team"}


def test_a_prompt_says_that_it_is_a_choice_whoever_put_it_there() -> None:
    asking = content("ask", asks_consent="ads", tags=["trail_running"], title="Your privacy")
    expected = {"code": "prompt", "text": "Your privacy: it is your choice"}
    assert said(asking) == said(asking, source="pinned", rule="x") == expected
    assert fallback_reason("consent_unknown", asking) == [expected]


@pytest.mark.parametrize("why", get_args(FallbackReason))
@pytest.mark.parametrize("language", ["en", "de", "fr", "es"])
def test_every_fallback_has_a_sentence(why: str, language: str) -> None:
    [reason] = fallback_reason(why, SHOES, languages=(language, "en"))
    assert reason["code"] == f"fallback:{why}"
    assert reason["text"].startswith("Trail shoes")
    assert reason.get("language", "en") == language
    [bare] = fallback_reason(why, languages=(language, "en"))
    assert bare["text"][0].isupper()


# What is never said.


def test_of_a_sensitive_content_nothing_is_said() -> None:
    pill = content("pill", tags=["trail_running"], title="Pills", sensitive=True)
    assert said(pill) == {"code": "predicted", "text": "Picked for you"}
    assert fallback_reason("holdout", pill)[0]["text"] == "Our pick for everyone"


LIKING: Final = {
    "taste": {"kind": "affinity", "weights": {"view": 1}},
    "brands": {"kind": "affinity", "weights": {"view": 1}, "of": "content.attributes.brand"},
}


def named(**sections: Any) -> set[str]:
    """The signals that a person's reasons may name after one view."""
    seen = content("shoe", tags=["red"], attributes={"brand": "x"})
    of: Plan = plan(policy(signals=LIKING, **sections), [seen])
    person: Profile
    person, _ = follow(deciding(of), [arrived("view", content_id="shoe")])
    return {name for name, _, _ in likes(person, plan=of, now_ms=T0)}


def test_private_signals_and_sensitive_attributes_are_never_named() -> None:
    assert named() == {"taste", "brands"}
    assert named(reasons={"private": ["taste"]}) == {"brands"}
    assert named(sensitive={"attributes": ["brand"]}) == {"taste"}
    assert named(sensitive={"tags": ["red"]}) == {"brands"}


def test_a_stranger_likes_nothing() -> None:
    assert likes(profile(), plan=plan(policy(signals=LIKING)), now_ms=T0) == []


@pytest.mark.parametrize(
    "value",
    ["true", "4711", "", "_", "a@b.example", "http://x", "x" * 41, "unknown", "a\u202eb", "12_34"],
)
def test_what_says_nothing_to_people_is_not_named(value: str) -> None:
    assert legible(value) is None
    liked: list[Liking] = [("taste", lambda c: c.attributes.get("x"), {value: 1.0})]
    told = said(content("c", attributes={"x": value}), liked=liked)
    assert told == {"code": f"affinity:taste={value}", "text": "Picked for you"}


# In which language.


@pytest.mark.parametrize(
    ("locale", "attribute", "default", "expected"),
    [
        ("de-AT", "fr", "es", "de"),
        ("de_CH.UTF-8", None, "en", "de"),
        ("DE", None, "en", "de"),
        (None, "fr-CA", "es", "fr"),
        ("xx-YY", "fr", "es", "fr"),
        (None, None, "es", "es"),
        ("xx", "yy", "zz", "en"),
        (True, 3, "fr", "fr"),
        ("", "german", "en", "en"),
        ("de" + "-x" * 100, None, "en", "en"),
    ],
)
def test_the_language_is_the_requests_else_the_persons_else_the_policys(
    locale: Any, attribute: Any, default: str, expected: str
) -> None:
    texts = Texts(Reasons(language=default))
    languages = texts.languages({"locale": locale}, {"language": attribute})
    assert languages[0] == expected
    assert languages[-1] == "en"
    assert said(texts=texts, languages=languages).get("language", "en") == expected


def test_a_title_is_told_in_the_language_of_the_sentence() -> None:
    shoes = content("c", title={"en": "Shoes", "de": "Schuhe"})
    texts = Texts()

    def first_word(*languages: str) -> str:
        return said(shoes, liked=[], texts=texts, languages=languages)["text"].split(",")[0]

    assert first_word("de", "en") == "Schuhe"
    assert first_word("fr", "de", "en") == "Schuhe", "the next of the person's languages"
    assert said(content("c", title={"it": "Scarpe"}), liked=[], languages=("de", "en")) == {
        "code": "predicted",
        "text": "Für Sie ausgesucht",
        "language": "de",
    }


def test_a_policys_template_replaces_ours_in_its_languages_only() -> None:
    texts = texts_of(predicted={"de": "{title} – nur für dich"}, fallback={"en": "{title}!"})
    german, english = ("de", "en"), ("en",)
    assert said(liked=[], texts=texts, languages=german)["text"] == "Trail shoes – nur für dich"
    assert said(liked=[], texts=texts, languages=english)["text"] == "Trail shoes, picked for you"
    [reason] = fallback_reason("consent_refused", SHOES, texts=texts)
    assert reason["text"] == "Trail shoes!", "for every why, as the code before the colon says"


def test_a_language_that_only_the_policy_speaks_is_spoken() -> None:
    texts = texts_of(predicted={"it": "{title}, scelto per te"})
    languages = texts.languages({"locale": "it-IT"}, {})
    assert languages == ("it", "en")
    told = said(liked=[], texts=texts, languages=languages)
    assert (told["text"], told["language"]) == ("Trail shoes, scelto per te", "it")
    assert said(texts=texts, languages=languages)["text"].startswith("Trail shoes, because"), (
        "no sentence of that code in Italian"
    )


def test_a_code_of_the_policys_own_is_told_in_any_language_rather_than_otherwise() -> None:
    texts = texts_of(summer={"de": "{title} für den Sommer"})
    told = said(source="forced", rule="summer", texts=texts, languages=("en",))
    assert (told["text"], told["language"]) == ("Trail shoes für den Sommer", "de")


# Templates cannot do harm.


@pytest.mark.parametrize(
    "template", ["{name}, for you", "{title", "}", "{title!r}", "{value.__class__}", "{0}", "{}"]
)
def test_a_template_that_cannot_be_filled_gives_way(template: str) -> None:
    texts = texts_of(affinity={"en": template})
    assert said(texts=texts)["text"] == "Trail shoes, because you like trail running"


def test_a_template_needs_what_it_names() -> None:
    texts = texts_of(predicted={"en": "You like {value}"}, explored={"en": "Try {title} now"})
    assert said(liked=[], texts=texts)["text"] == "Trail shoes, picked for you"
    assert said(greedy=False, texts=texts)["text"] == "Try Trail shoes now"
    assert said(PLAIN, greedy=False, texts=texts)["text"] == "Something new to discover"


def test_a_title_is_a_text_and_no_template() -> None:
    odd = content("c", tags=["trail_running"], title="{value} {title}")
    assert said(odd)["text"] == "{value} {title}, because you like trail running"


def test_a_long_title_is_cut_and_an_unprintable_one_left_out() -> None:
    long = said(content("c", title="x" * 500), liked=[])["text"]
    assert long == f"{'x' * (LONGEST_TITLE - 1)}…, picked for you"
    assert said(content("c", title="a\u202eb"), liked=[])["text"] == "Picked for you"
    assert said(content("c", title=" a\n b "), liked=[])["text"] == "a b, picked for you"


_TEXT = st.text(max_size=300)


@given(
    template=_TEXT
    | st.sampled_from(["{title}{value}" * 20, "{title}", "{value}", "{title},{title}"]),
    title=st.none() | _TEXT | st.dictionaries(st.sampled_from(["en", "de", "it"]), _TEXT),
    value=_TEXT,
    locale=_TEXT,
)
def test_whatever_is_written_a_reason_is_a_short_line(
    template: str, title: Any, value: str, locale: str
) -> None:
    texts = Texts(Reasons.model_construct(templates={"affinity": {"en": template}}))
    languages: Languages = texts.languages({"locale": locale}, {})
    told = texts.tell("affinity:a=b", languages, title=title, value=value[:40], template="affinity")
    assert told["code"] == "affinity:a=b"
    assert 0 < len(told["text"]) <= LONGEST_TEXT
    assert told["text"] == " ".join(told["text"].split())


def test_the_same_is_told_the_same_after_much_else_was_told() -> None:
    texts = Texts()
    before = texts.tell("predicted", ("en",), title="Shoes")
    for i in range(5_000):
        texts.tell(f"affinity:a={i}", ("en",), value=f"v{i}", template="affinity")
    assert texts.tell("predicted", ("en",), title="Shoes") == before


# The catalogue of sentences.


@pytest.mark.parametrize("code", BUILT_IN)
def test_every_code_has_every_language_and_begins_with_what(code: str) -> None:
    assert set(BUILT_IN[code]) == {"en", "de", "fr", "es"}
    for sentence in BUILT_IN[code].values():
        assert re.match(r"\{title\} ?[,:] ", sentence)
        assert set(re.findall(r"\{(\w+)\}", sentence)) <= {"title", "value"}
        assert ("{value}" in sentence) == (code == "affinity")


def test_every_source_of_an_item_has_a_sentence_of_its_own() -> None:
    assert set(get_args(ItemSource)) - {"model"} <= set(BUILT_IN)


@pytest.mark.parametrize("said", [None, 7, "*", "", "d", "deutsch", "-de", "de;q=1", "1e"])
def test_what_is_no_language_tag_names_no_language(said: object) -> None:
    assert language_of(said) is None
