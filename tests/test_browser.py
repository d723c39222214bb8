"""The page in a real browser: it works, by mouse and by keyboard, and axe-core finds nothing to object to.

Needs a Chromium or Chrome on the PATH and the packages of the dependency group ``browser``, which ``make browser``
installs; skipped without.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import synthetic
import yaml
from synthetic import EVIL

from gradbench.report import build, compare
from gradbench.report.claims.section import build_sections
from gradbench.report.figures.style import RC

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MISSING = "the packages of the group browser are missing; `make browser` installs them"
playwright = pytest.importorskip("playwright.sync_api", reason=MISSING, exc_type=ImportError)
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=MISSING, exc_type=ImportError)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=f"no browser on the PATH: none of {', '.join(NAMES)}"),
]

SIDES = {"treatment": {"regularizer": "clip_norm"}, "control": {"regularizer": "none"}, "per": "model"}
CLAIMS = [
    {
        "id": "usable",
        "sentence": "Clipping loses fewer cells",
        "metric": "diverged",
        "goal": "min",
        "below": -0.1,
        "combine": "any",
        **SIDES,
    },
    {
        "id": "2",
        "sentence": "Clipping loses more",
        "metric": "diverged",
        "goal": "min",
        "above": 0.5,
        **SIDES,
    },
    {
        "id": "3",
        "sentence": EVIL,
        "metric": "test/accuracy",
        "goal": "max",
        "above": 0.001,
        "figure": "strengths",
        **SIDES,
    },
]
FOREIGN = "gradbench run quick --config-dir theirs"
"""A command that names code on somebody else's machine."""

PHONE, DESK = (390, 844), (1280, 900)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a report, one of a stranger's tables, and a comparison."""
    root = tmp_path_factory.mktemp("browser")
    few = {"none": (), "clip_norm": (0.1, 1.0), "gp": (1.0, 10.0)}
    synthetic.write(root / "plain", models=["lstm", "mlp"], strengths=few, seeds=12)
    cells = synthetic.write(root / "evil", models=["mlp"], strengths=few, statuses={"gp": "failed"})
    hostile = dict.fromkeys(("model", "model.unit", "data", "device", "error", "torch"), EVIL)
    hostile["command"] = FOREIGN
    evil = cells.assign(**hostile).replace({"regularizer": {"clip_norm": EVIL}})
    evil.to_parquet(root / "evil" / "cells" / "a.parquet")
    synthetic.write(root / "slow", models=["lstm", "mlp"], strengths=few, leaves={"optimizer.lr": 0.01})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RC, "savefig.dpi", 50)
        for name in ("plain", "evil"):
            path = root / name / "experiment.yaml"
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"spec": {"claims": CLAIMS}}))
        found = {name: build(root / name, build_sections(root / name)[0]).page for name in ("plain", "evil")}
        found["compared"] = compare(
            [root / name for name in ("plain", "slow", "evil")], root / "compared"
        ).page
    return found


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    assert CHROMIUM is not None
    if subprocess.run([CHROMIUM, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"{CHROMIUM} does not start; on Ubuntu it is a stand-in for a snap")
    with playwright.sync_playwright() as running:
        # Tests may run as root in a container, where Chromium's own sandbox cannot start; the pages are ours.
        found = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Opened:
    """A page in a tab, with whatever it complains of."""

    def __init__(self, browser: "Browser", path: Path, size: tuple[int, int], scheme: Any = "light") -> None:
        width, height = size
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = path.as_uri()
        self.page.goto(self.url)

    def column(self, place: int, grid: str = "#cells-table") -> list[str]:
        return self.page.locator(f"{grid} tbody tr:not(.details) td:nth-child({place})").all_text_contents()

    def said(self) -> str:
        return self.page.locator("#cells-table output").inner_text()


@pytest.fixture
def open_page(browser: "Browser", pages: dict[str, Path]) -> Iterator[Any]:
    opened: list[Opened] = []

    def start(name: str = "plain", size: tuple[int, int] = DESK, scheme: str = "light") -> Opened:
        opened.append(Opened(browser, pages[name], size, scheme))
        return opened[-1]

    yield start
    for tab in opened:
        tab.context.close()
        assert tab.complaints == []


@pytest.mark.parametrize("name", ["plain", "evil", "compared"])
def test_a_page_opens_without_a_complaint_and_asks_for_nothing_else(open_page: Any, name: str) -> None:
    tab = open_page(name)
    assert [url for url in tab.requests if not url.startswith("data:")] == [tab.url]
    assert tab.page.evaluate("Array.from(document.images).every((image) => image.naturalWidth > 0)")


@pytest.mark.parametrize("name", ["plain", "evil", "compared"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_object_to(open_page: Any, name: str, scheme: str) -> None:
    tab = open_page(name, DESK if scheme == "light" else PHONE, scheme)
    for button in tab.page.locator("#cells-table button.id").all()[:2]:
        button.click()
    found = axe.Axe().run(tab.page).response
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []
    assert {"color-contrast", "image-alt", "label"} <= {rule["id"] for rule in found["passes"]}


@pytest.mark.parametrize("name", ["plain", "evil", "compared"])
def test_nothing_scrolls_sideways_on_a_phone_but_wide_tables_in_their_own_box(
    open_page: Any, name: str
) -> None:
    tab = open_page(name, PHONE)
    if name != "compared":
        tab.page.locator("#cells-table button.id").first.click()
    assert tab.page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    boxes = tab.page.locator(".scroll").all()
    assert any(box.evaluate("(box) => box.scrollWidth > box.clientWidth") for box in boxes)


def test_a_ranking_and_claims_of_ordinary_names_are_whole_on_a_laptop_and_neither_ids_nor_options_are_broken(
    open_page: Any,
) -> None:
    tab = open_page("plain", (1200, 900))
    ranking = tab.page.locator("#treatments .scroll").first
    claims = tab.page.locator("#claims .scroll").first
    for table in (ranking, claims):
        assert table.evaluate("(box) => box.scrollWidth <= box.clientWidth")
    lines = """(text) => {
        const range = document.createRange();
        range.selectNodeContents(text);
        return new Set(Array.from(range.getClientRects(), (box) => box.top)).size;
    }"""
    for inside in ("#claims dt", ".option"):
        found = tab.page.locator(inside).all()
        assert {one.evaluate(lines) for one in found} == {1}


def test_a_click_on_a_heading_sorts_and_another_one_reverses(open_page: Any) -> None:
    tab = open_page()
    metric = tab.page.locator("#cells-table th", has_text="metric")
    known: list[list[float]] = []
    for direction in ("ascending", "descending"):
        metric.locator("button").click()
        assert metric.get_attribute("aria-sort") == direction
        shown = tab.column(7)
        values = [float(value) for value in shown if value != "–"]
        assert shown[: len(values)] == [value for value in shown if value != "–"]  # missing ones come last
        known.append(values)
    assert known[0] == sorted(known[0])
    assert known[1] == sorted(known[1], reverse=True)


def test_numbers_sort_as_numbers_in_tables_written_by_the_template_too(open_page: Any) -> None:
    tab = open_page()
    grid = "#treatments-1"
    tab.page.locator(f"{grid} th", has_text="chance of being best").locator("button").click()
    chances = [float(value) for value in tab.column(7, grid)]
    assert chances == sorted(chances)


def test_a_table_is_sorted_and_filtered_from_the_keyboard(open_page: Any) -> None:
    tab = open_page()
    tab.page.locator("#cells-filter").focus()
    tab.page.keyboard.type("gp")
    assert tab.said() == "48 of 120"
    assert tab.column(2) == ["lstm"] * 24 + ["mlp"] * 24
    for _ in ("the box that scrolls", "the first heading", "the second"):
        tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    tab.page.keyboard.press("Space")
    assert tab.column(2) == ["mlp"] * 24 + ["lstm"] * 24


def test_words_and_conditions_on_columns_filter(open_page: Any, pages: dict[str, Path]) -> None:
    cells = pd.read_parquet(pages["plain"].parent.parent / "cells")
    mlp = cells[cells["model"] == "mlp"]
    tab = open_page()
    for typed, wanted in (
        ("seed=1", cells["seed"] == 1),
        ("diverged lstm", (cells["status"] == "diverged") & (cells["model"] == "lstm")),
        ("comparison=mlp metric<0.95", cells["cell"].isin(mlp.loc[mlp["test/accuracy"] < 0.95, "cell"])),
        ("nothing like this", cells["seed"] < 0),
    ):
        tab.page.locator("#cells-filter").fill(typed)
        assert tab.said() == f"{wanted.sum()} of {len(cells)}"
    assert tab.page.locator("#cells-table output").get_attribute("aria-live") == "polite"


def test_a_long_table_shows_a_part_and_the_rest_when_asked(open_page: Any) -> None:
    tab = open_page()
    assert len(tab.column(1)) == 100
    tab.page.locator("#cells-table .more button").click()
    assert len(tab.column(1)) == 120
    assert tab.page.locator("#cells-table .more").is_hidden()


def test_an_opened_cell_shows_its_curves_config_and_command(open_page: Any, pages: dict[str, Path]) -> None:
    cells = pd.read_parquet(pages["plain"].parent.parent / "cells").set_index("cell")
    tab = open_page()
    tab.page.locator("#cells-filter").fill("completed gp mlp")
    button = tab.page.locator("#cells-table button.id").first
    button.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    details = tab.page.locator("#cells-table .details")
    cell = cells.loc[button.inner_text()]
    assert details.locator(".command code").inner_text() == cell["command"]
    assert details.locator("figcaption").all_text_contents()[0].startswith("training loss")
    lines = details.locator("path.line").evaluate_all("(lines) => lines.map((line) => line.getBBox().width)")
    assert len(lines) == 3
    assert min(lines) > 100  # pixels of the picture: a curve, and not a dot
    config = details.locator(".config").inner_text()
    assert re.search(r"regularizer\.lambda\s+1\b", config)
    button.press("Enter")
    assert details.count() == 0


def test_the_command_goes_to_the_clipboard(open_page: Any) -> None:
    tab = open_page()
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.page.locator("#cells-table button.id").first.click()
    details = tab.page.locator("#cells-table .details")
    details.locator("button.copy").click()
    playwright.expect(details.locator("button.copy")).to_have_text(re.compile("Copied|Selected"))
    command = details.locator("code").inner_text()
    copied = tab.page.evaluate("navigator.clipboard.readText().catch(() => String(getSelection()))")
    assert copied == command


def test_a_command_that_names_somebody_else_s_code_has_no_button(open_page: Any) -> None:
    tab = open_page("evil")
    tab.page.locator("#cells-table button.id").first.click()
    details = tab.page.locator("#cells-table .details")
    assert details.locator("button.copy").count() == 0
    assert details.locator("p.command").inner_text().strip() == FOREIGN
    assert details.locator("p.command + p").inner_text().startswith("It runs code named by --config-dir")


def test_a_link_to_a_cell_opens_that_cell(open_page: Any, pages: dict[str, Path]) -> None:
    last = pd.read_parquet(pages["plain"].parent.parent / "cells")["cell"].iloc[-1]
    tab = open_page()
    tab.page.goto(f"{tab.url}#cell-{last}")
    opened = tab.page.locator("#cells-table button.id[aria-expanded=true]")
    assert opened.all_text_contents() == [last]
    assert tab.page.locator("#cells-table .details").is_visible()


def test_a_strangers_names_stay_text(open_page: Any) -> None:
    tab = open_page("evil")
    tab.page.locator("#cells-filter").fill("script failed")
    tab.page.locator("#cells-table button.id").first.click()
    assert EVIL in tab.page.locator("#cells-table .details .error").inner_text()
    assert tab.page.locator("script").count() == 2
    assert tab.complaints == []  # nor was it run


def test_each_claim_stands_with_its_verdict_and_leads_to_its_figure(open_page: Any) -> None:
    tab = open_page()
    lines = tab.page.locator("#claims .answer")
    assert lines.locator("dt").all_text_contents() == ["usable", "2", "3"]
    verdicts = lines.locator("strong").all_text_contents()
    assert verdicts == ["supported", "contradicted", "undecided"]
    assert EVIL in lines.nth(2).inner_text()
    link = lines.nth(2).locator("a")
    link.press("Enter")
    assert tab.page.evaluate("document.querySelector(':target img').alt").startswith(
        "Final metric against strength"
    )


def test_a_printed_page_has_no_controls(open_page: Any) -> None:
    tab = open_page()
    tab.page.emulate_media(media="print")
    assert tab.page.locator("nav").is_hidden()
    assert tab.page.locator(".filter").first.is_hidden()
    assert tab.page.locator("img").first.is_visible()
    assert len(tab.page.pdf()) > 10_000
