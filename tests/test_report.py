"""The report: one file, nothing fetched, nothing from data taken for HTML."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest

from flows.report import (
    Accounting,
    DecisionSeries,
    Latency,
    Learned,
    ReportData,
    SegmentSeries,
    ShownContent,
    ShownSeries,
    Throughput,
    render_report,
    write_report,
)
from flows.simulate import ArmResult, MostPopularArm, RandomArm, Shop, play_arm

HOURS = [1_767_571_200_000 + 3_600_000 * hour for hour in range(8)]
NASTY = '<script>alert("x")</script> & #010101 $x$ http'
VOID = {"meta", "br", "hr", "img", "input", "link"}


def accounting() -> Accounting:
    return Accounting(read=1_000, used=950, suppressed=20, duplicates=15, late=10, dead_letters=5)


def replay_data(name: str = "regulars") -> ReportData:
    rising = list(range(8))
    return ReportData(
        title="nextbest replay",
        subtitle="One day",
        facts={"policy": "sha256:1f"},
        decisions=DecisionSeries(HOURS, [100] * 8, [20] * 8, [5] * 8),
        shown=ShownSeries(HOURS, {name: [7] * 8, "books": [3] * 8}),
        contents=(ShownContent(name, "shoes", 70, 7), ShownContent("p2", "books", 30)),
        segments=SegmentSeries(HOURS, {name: rising, "new": [2] * 8}),
        latency=Latency([10.0 * number for number in range(1, 101)]),
        throughput=Throughput([float(second) for second in range(8)], [5_000.0] * 8),
        learned=Learned(900, 800, HOURS, [110] * 8, [100] * 8),
        accounting=accounting(),
        rejections={name: 40, "hidden": 3},
        notes=("Replayed from a log.",),
    )


@pytest.fixture(scope="module")
def arms() -> tuple[ArmResult, ...]:
    shop = Shop(3, shoppers=150, contents=60, days=2)
    popular = play_arm(shop, MostPopularArm(shop))
    return replace(popular, name="nextbest"), popular, play_arm(shop, RandomArm(shop))


class Page(HTMLParser):
    """Tags, headings and ids of a page; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_the_report_of_a_demo_has_every_section(arms: tuple[ArmResult, ...]) -> None:
    page = Page(render_report(replace(replay_data(), arms=arms)))
    assert page.open == []
    assert page.headings == [
        "Result",
        "Click rate over time",
        "Clicks gained",
        "What was shown",
        "Exploration and fallback",
        "Segments",
        "Latency",
        "Throughput",
        "Learning",
        "Where every event went",
        "Shown most",
        "Candidates refused",
        "Notes",
    ]


def test_the_report_of_a_replay_leaves_the_comparison_out() -> None:
    page = Page(render_report(replay_data()))
    assert "Result" not in page.headings
    assert "Click rate over time" not in page.headings
    assert "Segments" in page.headings


def test_sections_without_data_are_left_out() -> None:
    assert Page(render_report(ReportData(title="empty"))).headings == []


def test_series_too_short_to_draw_are_left_out() -> None:
    one = HOURS[:1]
    data = ReportData(
        title="short",
        decisions=DecisionSeries(one, [1], [0], [0]),
        shown=ShownSeries(one, {"a": [1]}),
        segments=SegmentSeries(one, {"a": [1]}),
        latency=Latency([5.0]),
        throughput=Throughput([0.0], [1.0]),
        learned=Learned(1, 1),
    )
    assert Page(render_report(data)).headings == []


def test_the_arms_alone_are_enough_for_what_the_subject_knows(
    arms: tuple[ArmResult, ...],
) -> None:
    headings = Page(render_report(ReportData(title="demo", arms=arms))).headings
    assert headings == [
        "Result",
        "Click rate over time",
        "Clicks gained",
        "What was shown",
        "Exploration and fallback",
        "Shown most",
    ]


def test_the_table_shows_the_uplift_of_the_first_arm(arms: tuple[ArmResult, ...]) -> None:
    text = " ".join(Page(render_report(ReportData(title="demo", arms=arms))).text)
    gain = arms[0].ctr / arms[2].ctr - 1
    assert "nextbest is ahead by" in text
    assert f"{100 * gain:+.0f}\u202f%" in text
    assert f"{100 * arms[0].ctr:.2f}\u202f%" in text


def test_nothing_is_fetched(arms: tuple[ArmResult, ...]) -> None:
    html = render_report(replace(replay_data(), arms=arms))
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", html)
    assert not {"script", "link", "img", "iframe", "object"} & set(Page(html).tags)
    targets = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert targets
    assert all(target.startswith("#") for target in targets)


def test_ids_are_unique_and_every_reference_has_its_target(arms: tuple[ArmResult, ...]) -> None:
    html = render_report(replace(replay_data(), arms=arms))
    ids = Page(html).ids
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= set(ids)


def test_names_from_data_are_never_taken_for_html(arms: tuple[ArmResult, ...]) -> None:
    nasty = tuple(replace(arm, name=arm.name + NASTY) for arm in arms)
    data = replace(replay_data(NASTY), arms=nasty, title=NASTY, subtitle=NASTY, notes=(NASTY,))
    html = render_report(replace(data, facts={NASTY: NASTY}))
    page = Page(html)
    assert "script" not in page.tags
    assert "<script" not in html
    assert page.open == []


def test_names_in_figures_are_shown_as_they_are() -> None:
    html = render_report(replay_data("a<b & #010101 $x$"))
    assert any(text.startswith("a<b & #010101 $x$ 7") for text in Page(html).text)


def test_colours_follow_the_reader_and_no_placeholder_is_left(
    arms: tuple[ArmResult, ...],
) -> None:
    html = render_report(replace(replay_data(), arms=arms))
    assert "prefers-color-scheme: dark" in html
    assert not re.search(r"#(0[1-8])\1\1|#1(\d)1\2", html)
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", html))
    light, dark = html.split("prefers-color-scheme: dark", 1)
    assert all(f"{name}:" in light and f"{name}:" in dark for name in used)


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        write_report(tmp_path / name, replay_data())
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_books_that_do_not_balance_are_said_to_be_wrong() -> None:
    broken = replace(accounting(), used=900)
    assert accounting().missing == 0
    assert broken.missing == 50
    assert "all accounted for" in render_report(ReportData(title="t", accounting=accounting()))
    html = render_report(ReportData(title="t", accounting=broken))
    assert '<td class="wrong">50 not accounted for</td>' in html


def test_an_arm_that_showed_nothing_has_dashes_not_errors(arms: tuple[ArmResult, ...]) -> None:
    shop = Shop(3, shoppers=150, contents=60, days=2)
    play = shop.play("silent")
    play.start()
    while play.step([]) is not None:
        pass
    html = render_report(ReportData(title="t", arms=(arms[0], play.result())))
    assert "nan" not in html.lower()
    assert "–" in html


def test_drawing_leaves_the_settings_of_the_process_alone() -> None:
    before = dict(mpl.rcParams)
    render_report(replay_data())
    assert dict(mpl.rcParams) == before


def test_figures_say_in_words_what_they_show() -> None:
    html = render_report(replay_data())
    labels = re.findall(r'role="img" aria-label="([^"]+)"', html)
    assert len(labels) == html.count("<svg")
    assert all(len(label) > 10 for label in labels)
