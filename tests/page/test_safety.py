"""Foreign ids stay text, nothing is without a name or hard to read, and the page is shipped with the package."""

import re

import pytest
from playwright.sync_api import Page, expect

from skipwise.retrieval.serve.app import PAGE
from tests.page.conftest import HOSTILE
from tests.page.oracle import address, ask, recommended
from tests.support.browsing import faults_by_axe

SESSION = [(HOSTILE, True), ("t_004", False), ("t_005", False)]
NAMED = {"button", "combobox", "slider", "option", "listbox", "table", "textbox", "dialog", "list", "link", "region"}


def test_a_track_that_looks_like_markup_stays_text(open_page, two_models):
    page = open_page(two_models)
    search = page.get_by_role("combobox", name="Add a track")
    search.fill(HOSTILE[:4])
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_text([HOSTILE])
    search.press("Enter")
    page.get_by_role("button", name=f"{HOSTILE}: skipped").click()
    page.get_by_label("Exclude from").select_option("none")
    best = recommended(two_models, [(HOSTILE, False)], exclude="none")
    assert HOSTILE in [one["track"] for one in best[:10]]
    page.locator("#skips").get_by_role("button", name=HOSTILE).first.click()
    dialog = page.get_by_role("dialog", name=HOSTILE)
    expect(dialog.get_by_role("list", name="Nearest of all tracks").locator(".card")).to_have_count(10)
    page.reload()
    expect(page.locator("#plays .track")).to_have_text([HOSTILE])
    expect(page.locator("#skips .card")).to_have_count(20)
    assert page.locator("img").count() == 0
    assert page.title() == "Skipwise: what a skip changes"


def test_neighbours_are_the_services_and_add_to_the_session(open_page, service):
    page = open_page(address(service, SESSION))
    track = recommended(service, SESSION)[0]["track"]
    opener = page.locator("#skips").get_by_role("button", name=track, exact=True).first
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    near = [one["track"] for one in ask(f"{service}/similar/{track}?k=10&by=cosine")["tracks"]]
    of_all = dialog.get_by_role("list", name="Nearest of all tracks")
    expect(of_all.locator(".track")).to_have_text(near)
    page.keyboard.press("Escape")
    expect(opener).to_be_focused()
    page.keyboard.press("Enter")
    of_all.get_by_role("button", name=near[0], exact=True).click()
    expect(dialog.get_by_role("heading", level=2)).to_have_text(near[0])
    expect(dialog.get_by_role("list", name="Nearest of the tracks played")).to_have_count(0)
    dialog.get_by_role("button", name="Skip", exact=True).click()
    expect(page.get_by_role("button", name=f"{near[0]}: skipped")).to_have_attribute("aria-pressed", "true")


def test_the_report_is_shown_where_there_is_one(open_page, service, two_models):
    page = open_page(two_models)
    page.get_by_text("Show it here").click()
    expect(page.frame_locator("iframe").get_by_role("heading")).to_have_text("How it was trained")
    expect(page.get_by_role("link", name="Open in a new tab")).to_have_attribute("href", "report")
    without = open_page(service)
    assert without.evaluate("fetch('report').then((answer) => answer.status)") == 404
    expect(without.locator("#report")).to_be_hidden()


def accessible(page: Page) -> list[tuple[str, str]]:
    """Role and name of everything in the browser's own accessibility tree."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    return [
        (node["role"]["value"], node.get("name", {}).get("value", "").strip()) for node in nodes if not node["ignored"]
    ]


def test_everything_has_a_name_and_can_be_read(open_page, dialled):
    page = open_page(address(dialled, SESSION, exclude="none", dial=0.5), viewport={"width": 360, "height": 700})
    expect(page.locator("#mood")).to_be_visible()
    page.get_by_text("Options").click()
    expect(page.locator("#models .card")).to_have_count(20)
    page.get_by_role("combobox", name="Add a track").fill("t_0")
    expect(page.get_by_role("listbox").get_by_role("option").first).to_be_visible()
    page.wait_for_timeout(350)  # rows that fade in
    found = accessible(page)
    assert {"button", "combobox", "slider", "option", "table", "list"} <= {role for role, _ in found}
    assert [role for role, name in found if role in NAMED and not name] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(open_page, dialled, width: int, scheme: str):
    place = address(dialled, SESSION, exclude="none", dial=0.5)
    page = open_page(place, viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce")
    expect(page.locator("#models .card")).to_have_count(20)
    page.locator("#options").evaluate("details => details.open = true")
    page.get_by_role("combobox", name="Add a track").fill("t_0")
    expect(page.get_by_role("option").first).to_be_visible()
    assert faults_by_axe(page) == []
    page.keyboard.press("Escape")
    page.locator("#skips .card button").first.click()
    expect(page.get_by_role("dialog").locator(".card").nth(9)).to_be_visible()
    assert faults_by_axe(page) == []


def test_the_page_has_no_inline_code_and_no_address_outside():
    files = {file.name: file.read_text(encoding="utf-8") for file in PAGE.iterdir()}
    assert {"index.html", "app.js", "style.css"} <= files.keys()
    assert not re.search(r"<style|<script(?![^>]*src=)|\sstyle=|\son[a-z]+=", files["index.html"])
    for name, text in files.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), name
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), name


def test_the_package_carries_every_file_of_the_page():
    setup = (PAGE.parents[2] / "setup.py").read_text()
    patterns = re.findall(r'"(.+?)"', re.search(r'package_data=\{\s*"": \[(.+?)\]', setup)[1])
    packed = {file for pattern in patterns for file in PAGE.parent.glob(pattern)}
    assert set(PAGE.iterdir()) <= packed
