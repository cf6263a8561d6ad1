"""A listener's session to start from, and the player: what is listened to or skipped ranks the list anew."""

import re

import pytest
from playwright.sync_api import expect

from tests.page.conftest import TRACKS, serving
from tests.page.exports import write_dialled
from tests.page.oracle import address, ask, counts, recommended
from tests.page.test_session import plays

TITLES = [f"Song {row}" if row % 5 else None for row in range(len(TRACKS))]
ARTISTS = [f"Band {row % 7}" for row in range(len(TRACKS))]
EXAMPLES = [[(3, False), (40, True), (8, False), (77, False)], [(9, None), (10, True), (11, False)]]


def called(row: int) -> str:
    """As a list or a button says it."""
    return f"{TITLES[row] or TRACKS[row]} {ARTISTS[row]}"


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> str:
    """A service of an export with names and sessions to start from."""
    examples = [[{"row": row, "skipped": skipped} for row, skipped in one] for one in EXAMPLES]
    names = {"title": TITLES, "artist": ARTISTS}
    folder = tmp_path_factory.mktemp("player") / "named"
    write_dialled(folder, TRACKS, usual=0.5, names=names, fields={"examples": examples})
    with serving(own_encoder=True, export=folder) as url:
        yield url


def session(example: int) -> list[tuple[str, bool | None]]:
    return [(TRACKS[row], skipped) for row, skipped in EXAMPLES[example][:-1]]


def test_the_page_starts_with_a_listeners_session(open_page, named):
    page = open_page(named)
    expect(page.locator("#plays li")).to_have_count(3)
    assert plays(page) == [(called(row).replace(" B", "\nB"), skipped) for row, skipped in EXAMPLES[0][:-1]]
    listeners = page.get_by_role("group", name="Sessions of the dataset").get_by_role("button")
    assert [one.get_attribute("aria-pressed") for one in listeners.all()] == ["true", "false"]
    ranked = [one["track"] for one in recommended(named, session(0))]
    place = ranked.index(TRACKS[77]) + 1 if TRACKS[77] in ranked else None
    found = f"number {place} of this list" if place else "not among the first 100"
    expect(page.locator("#next")).to_have_text(f"What this listener played next, Song 77 · Band 0, is {found}.")
    page.get_by_role("button", name="Song 3 · Band 3: skipped").click()
    expect(page.locator("#next")).to_contain_text("What this listener played next")  # the same tracks
    listeners.nth(1).click()
    expect(page.locator("#plays li")).to_have_count(2)
    page.reload()
    expect(page.locator("#next")).to_contain_text("Song 11 · Band 4")
    assert [one.get_attribute("aria-pressed") for one in listeners.all()] == ["false", "true"]
    page.get_by_role("button", name="Remove Song 9").click()
    expect(page.locator("#next")).to_be_hidden()
    assert [one.get_attribute("aria-pressed") for one in listeners.all()] == ["false", "false"]


def test_a_play_whose_skip_is_not_known_is_neither_skipped_nor_heard(open_page, named):
    page = open_page(named)
    page.get_by_role("button", name="Listener 2: 2 tracks, 1 skipped, 1 not known").click()
    expect(page.locator("#plays .unknown .track")).to_have_text(f"{called(9)} skip not known")
    assert page.evaluate("location.hash") == f"#played={TRACKS[9]}&skipped={TRACKS[10]}&next={TRACKS[11]}"
    best = [called(TRACKS.index(one["track"])) for one in recommended(named, session(1))[:10]]
    shown = page.locator("#skips .list").first.locator(".track button")
    expect(shown).to_have_text(best)
    page.reload()
    mark = page.get_by_role("button", name="Song 9 · Band 2: skipped")
    expect(mark).to_have_attribute("aria-pressed", "mixed")
    page.get_by_label("Exclude from").select_option("none")
    for pressed in ("true", "false", "true"):
        mark.click()
        expect(mark).to_have_attribute("aria-pressed", pressed)
    expect(page.locator("#plays .unknown")).to_have_count(0)


def test_an_export_without_sessions_starts_with_a_search(open_page, service):
    page = open_page(service)
    expect(page.get_by_text("Find a track to start with")).to_be_visible()
    expect(page.get_by_role("group", name="Sessions of the dataset")).to_be_hidden()
    expect(page.get_by_role("complementary")).to_be_hidden()


def test_a_listener_listens_and_skips(open_page, named):
    page = open_page(address(named, session(0)))
    player, before = page.get_by_role("complementary", name="Up next"), recommended(named, session(0))
    first = before[0]["track"]
    expect(player.locator(".track")).to_have_text(called(TRACKS.index(first)))
    skip = player.get_by_role("button", name="Skip")
    for _ in range(2):  # they come first
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    after = recommended(named, [*session(0), (first, True)])
    expect(player.locator(".track")).to_have_text(called(TRACKS.index(after[0]["track"])))
    expect(page.locator("#moved")).to_have_text(f"The list since: {counts(after, before)}")
    expect(skip).to_be_focused()
    player.get_by_role("button", name="Listen").click()
    expect(page.locator("#plays li")).to_have_count(5)
    assert [skipped for _, skipped in plays(page)] == [False, True, False, True, False]
    page.get_by_role("button", name="Clear").click()
    expect(player).to_be_hidden()


def test_a_second_press_waits_for_the_new_list(open_page, named):
    page = open_page(address(named, session(0)))
    skip = page.get_by_role("complementary").get_by_role("button", name="Skip")
    skip.evaluate("button => { button.click(); button.click(); }")
    expect(page.locator("#plays li")).to_have_count(4)


def test_what_a_track_is_near_to_is_told(open_page, named):
    page = open_page(address(named, session(0)))
    body = {"session": [{"track": track, "skipped": skipped} for track, skipped in session(0)], "k": 10, "why": 3}
    best = ask(f"{named}/recommend", body)["tracks"][0]
    nearest = [TRACKS.index(one["track"]) for one in best["nearest"]]
    card = page.locator("#skips .card").first
    expect(card.locator(".near")).to_have_text(f"like {TITLES[nearest[0]] or TRACKS[nearest[0]]}")
    card.get_by_role("button").click()
    near = page.get_by_role("dialog").get_by_role("list", name="Nearest of the tracks played")
    expect(near.locator(".track")).to_have_text([called(row) for row in nearest])
    cosines = [f"Cosine {one['cosine']:.3f}" for one in best["nearest"]]
    expect(near.locator(".score")).to_have_text([re.compile(cosine) for cosine in cosines])


def test_words_find_tracks(open_page, named):
    page = open_page(address(named, session(0)))
    page.get_by_role("combobox", name="Add a track").fill(TRACKS[21])
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_text([called(21)])


@pytest.mark.parametrize("width, seen", [(360, 4), (390, 4), (768, 1)])
def test_results_are_in_sight_where_they_stand_below_the_session(open_page, named, width: int, seen: int):
    page = open_page(named, viewport={"width": width, "height": 844})
    cards = page.locator("#skips .card")
    expect(cards).to_have_count(20)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [card.bounding_box() for card in (cards.first, cards.nth(10))]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"], "side by side"
    player = page.locator("#player").bounding_box()
    last = cards.nth(seen - 1).bounding_box()
    assert last["y"] + last["height"] <= player["y"] and player["y"] + player["height"] <= 844
    page.locator("#skip").click()
    expect(page.locator("#moved")).to_contain_text("The list since")
    assert page.locator("#player").bounding_box() == player, "the buttons stay where they are"
    moved = page.locator("#moved").bounding_box()
    assert moved["y"] + moved["height"] <= 844 and page.evaluate("scrollY") == 0
