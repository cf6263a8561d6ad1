"""Building a session: by keyboard alone, by example, by address."""

from urllib.parse import parse_qsl, urlsplit

from playwright.sync_api import Page, expect

from tests.page.conftest import HOSTILE, TRACKS
from tests.page.oracle import address, recommended


def plays(page: Page) -> list[tuple[str, bool]]:
    rows = page.locator("#plays li").all()
    return [(row.locator(".track").inner_text(), row.get_by_role("button", pressed=True).count() == 1) for row in rows]


def test_a_session_is_built_by_keyboard_alone(open_page, service):
    page = open_page(service)
    keys = page.keyboard
    search = page.get_by_role("combobox", name="Add a track")
    keys.press("Tab")
    expect(search).to_be_focused()
    keys.type("t_01")
    options = page.get_by_role("listbox", name="Matching tracks").get_by_role("option")
    expect(options).to_have_text([track for track in TRACKS if track.startswith("t_01")])
    for _ in range(3):
        keys.press("ArrowDown")
    keys.press("ArrowUp")
    expect(options.and_(page.get_by_role("option", selected=True))).to_have_text("t_012")
    assert search.get_attribute("aria-activedescendant") == "suggestion-2"
    keys.press("Enter")
    expect(search).to_have_value("")
    expect(search).to_have_attribute("aria-expanded", "false")
    keys.type("t_150")
    keys.press("Enter")  # before the suggestions are there
    expect(page.locator("#plays li")).to_have_count(2)
    keys.type("t_033")
    keys.press("Enter")
    expect(page.locator("#plays li")).to_have_count(3)
    assert plays(page) == [("t_012", False), ("t_150", False), ("t_033", False)]

    keys.press("Tab")
    expect(page.get_by_role("button", name="t_012: skipped")).to_be_focused()
    keys.press("Space")
    expect(page.get_by_role("button", name="t_012: skipped")).to_be_focused()
    keys.press("Tab")  # up is disabled
    keys.press("Enter")
    assert plays(page) == [("t_150", False), ("t_012", True), ("t_033", False)]
    keys.press("Enter")
    expect(page.locator("#session-status")).to_have_text("t_012 is now number 3 of 3.")
    assert plays(page) == [("t_150", False), ("t_033", False), ("t_012", True)]
    expect(page.get_by_role("button", name="t_012: skipped")).to_be_focused()  # down can do no more
    for _ in range(2):
        keys.press("Tab")
    expect(page.get_by_role("button", name="Remove t_012")).to_be_focused()
    keys.press("Enter")
    assert plays(page) == [("t_150", False), ("t_033", False)]
    expect(page.get_by_role("button", name="Remove t_150")).to_be_focused()


def test_a_search_without_result_says_so_and_escape_empties_it(open_page, service):
    page = open_page(service)
    search = page.get_by_role("combobox", name="Add a track")
    search.fill("zz")
    expect(page.locator("#search-status")).to_have_text("No tracks for “zz”.")
    search.press("Enter")
    search.press("Escape")
    expect(search).to_have_value("")
    assert plays(page) == []


def test_the_address_carries_the_session_over_a_reload(open_page, service):
    page = open_page(address(service, [(track, place == 2) for place, track in enumerate(TRACKS[:5])]))
    expect(page.locator("#plays li")).to_have_count(5)
    page.get_by_label("Exclude from").select_option("kept")
    page.get_by_label("Tracks to show").select_option("20")
    expect(page.locator("#skips .card")).to_have_count(40)
    built, lists = plays(page), page.locator("#skips .list").all_inner_texts()
    assert [track for track, _ in built] == TRACKS[:5] and sum(skipped for _, skipped in built) == 1
    page.reload()
    expect(page.locator("#skips .card")).to_have_count(40)
    assert plays(page) == built
    assert page.locator("#skips .list").all_inner_texts() == lists
    expect(page.get_by_label("Exclude from")).to_have_value("kept")


def test_a_link_followed_in_an_open_page_replaces_the_session(open_page, service):
    page = open_page(address(service, [("t_001", False)]))
    expect(page.locator("#plays li")).to_have_count(1)
    page.evaluate("location.hash = '#skipped=t_002&heard=t_003'")
    expect(page.locator("#plays li")).to_have_count(2)
    assert plays(page) == [("t_002", True), ("t_003", False)]


def test_what_an_address_cannot_mean_is_named(open_page, service):
    faults = ["exclude=all", "show=11", "dial=many", "dial=-1", "trakc=t_001"]
    page = open_page(f"{service}/#heard=t_001&{'&'.join(faults)}")
    for fault in faults:
        expect(page.locator("#address-failure")).to_contain_text(f"The address has {fault}, which is not an option")
    assert plays(page) == [("t_001", False)]
    expect(page.locator("#skips .card")).to_have_count(10)


def test_tracks_are_shown_by_title_and_artist(open_page, named):
    page = open_page(named)
    search = page.get_by_role("combobox", name="Add a track")
    options = page.get_by_role("listbox").get_by_role("option")
    for words, title in (("nobody img", HOSTILE), ("sogn 17", "Song 17")):
        search.fill(words)
        expect(options.first).to_have_text(f"{title} Nobody")
        search.press("Enter")
    shown = page.locator("#plays .track")
    expect(shown).to_have_text([f"{HOSTILE} Nobody", "Song 17 Nobody"])
    assert parse_qsl(urlsplit(page.url).fragment) == [("heard", HOSTILE), ("heard", "t_017")]
    page.reload()
    expect(shown).to_have_text([f"{HOSTILE} Nobody", "Song 17 Nobody"])
    best = recommended(named, [(HOSTILE, False), ("t_017", False)])[:10]
    numbers = [int(one["track"].removeprefix("t_")) for one in best]
    titles = [f"Song {number} Nobody" if number else "t_000 Nobody" for number in numbers]
    expect(page.locator("#skips .track")).to_have_text(titles)
    page.locator("#skips .track button").first.click()
    dialog = page.get_by_role("dialog", name=titles[0].replace(" Nobody", " · Nobody"))
    expect(dialog.get_by_role("list", name="Nearest of all tracks").locator(".card")).to_have_count(10)
    assert page.locator("img").count() == 0
