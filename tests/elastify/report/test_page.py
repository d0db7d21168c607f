"""The page: well-formed, self-contained, and without a way out for hostile texts."""

from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from xml.etree import ElementTree

from pliant.elastify.report.data import Report
from pliant.elastify.report.figures import pictures
from pliant.elastify.report.page import render_page
from support.reports import HOSTILE, small_report

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements, attributes and texts; open elements must close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def values(self, *attributes: str) -> list[str]:
        return [a[name] or "" for _, a in self.elements for name in attributes if name in a]


@cache
def small_page() -> str:
    return render_page(small_report())


def hostile_report() -> Report:
    report = small_report(name=HOSTILE, facts={HOSTILE: HOSTILE}, notes=(HOSTILE,))
    levels = tuple(
        replace(level, accuracy=(replace(level.accuracy[0], task=HOSTILE),))
        for level in report.levels
    )
    assert report.plans is not None
    return replace(report, levels=levels, plans=replace(report.plans, kind=HOSTILE))


def test_the_page_says_what_the_report_says() -> None:
    page = Page(small_page())
    text = " ".join(" ".join(page.texts).split())
    for expected in ("12.00", "9.50", "50.0 % / 75.0 %", "20 (1 too long)", "0.480", "1 min 15 s"):
        assert expected in text
    assert "Anchor layers: 1." in text
    assert "global, which had the lowest mean loss" in text
    assert "60.0 %" in text
    assert page.count("figure") == page.count("svg") == 6


def test_what_there_is_nothing_to_say_about_is_left_out() -> None:
    levels = tuple(
        replace(level, accuracy=(), recovered_perplexity=None, adapter_bytes=None)
        for level in small_report().levels
    )
    page = Page(render_page(small_report(levels=levels, recovery=None, plans=None, notes=())))
    assert page.count("svg") == 4
    assert {"tasks", "recovery"}.isdisjoint(page.values("id"))


def test_hostile_texts_stay_text() -> None:
    page, harmless = (Page(html) for html in (render_page(hostile_report()), small_page()))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert page.count("script") == 0
    assert sum(HOSTILE in text for text in page.texts) >= 6


def test_the_page_needs_nothing_from_outside() -> None:
    html = small_page()
    page = Page(html)
    assert {"link", "script", "iframe", "img"}.isdisjoint(tag for tag, _ in page.elements)
    targets = page.values("href", "xlink:href", "src")
    assert all(t.startswith(("#", "data:image/png;base64,")) or t == "report.json" for t in targets)
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_ids_are_unique_and_every_reference_has_its_target() -> None:
    html = small_page()
    page = Page(html)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = [target[1:] for target in page.values("href", "xlink:href") if target[0] == "#"]
    labels = page.values("aria-labelledby")
    clips = [value[5:-1] for value in page.values("clip-path") if value.startswith("url(#")]
    assert clips
    assert {*links, *labels, *clips} <= set(ids)


def test_pictures_are_titled_and_take_the_pages_text_colour() -> None:
    drawn = pictures(small_report())
    assert {*drawn} == {"perplexity", "importance", "layers", "widths", "plans", "training"}
    for picture in drawn.values():
        root = ElementTree.fromstring(picture.svg)
        assert root.get("role") == "img"
        assert root[0].text == picture.text
        assert "currentColor" in picture.svg
        assert "#000000" not in picture.svg


def test_importance_may_be_anything() -> None:
    """Estimates may be 0 everywhere, or negative, or all alike."""
    report = small_report()
    for heads, neurons in (
        (((0.0, 0.0),) * 2, ((-1.0, -2.0), (1.0, 0.0))),
        (((1.0, 1.0),) * 2, ((1.0,),) * 2),
    ):
        changed = replace(report.importance, heads=heads, neurons=neurons)
        assert "importance" in pictures(replace(report, importance=changed))


def test_large_perplexities_keep_the_table_narrow() -> None:
    small, full = small_report().levels
    levels = (replace(small, bare_perplexity=1.2345e12), full)
    assert "1.234e+12" in render_page(small_report(levels=levels))
