"""What a skip changes, against an oracle that asks the service itself."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.conftest import OTHER_TRACKS, TRACKS, serving
from tests.page.oracle import address, cells, counts, recommended, unmarked

PLAYS = [("t_005", False), ("t_101", False), ("t_044", False), ("t_017", True)]
LATE = """
const fetchNow = window.fetch;
const held = new Promise((resolve) => { window.release = resolve; });
window.fetch = async (path, options = {}) => {
  const { signal, ...rest } = options;  // as if the older request could not be stopped
  const answer = await fetchNow(path, rest);
  if (options.body?.includes("t_005") && !options.body.includes("t_044")) {
    document.documentElement.dataset.late = "held";
    await held;
    setTimeout(() => document.documentElement.dataset.late = "shown or dropped by now", 50);
  }
  return answer;
};
"""


def seen(listed: Locator) -> list[list[str]]:
    """Rank, track, score, P(kept) and move of each card as they are drawn, without what only a screen reader says."""
    return listed.evaluate(
        """list => [...list.querySelectorAll(".card")].map(card => {
            const copy = card.cloneNode(true);
            copy.querySelectorAll(".unseen, .badge").forEach(one => one.remove());
            return [...copy.querySelectorAll(".rank, .track, .score, .kept, .move")].map(one => one.textContent.trim());
        })"""
    )


def columns(page: Page, section: str = "skips") -> list[list[list[str]]]:
    return [seen(listed) for listed in page.locator(f"#{section} .list").all()]


@pytest.mark.parametrize("exclude", ["kept", "skipped"])
def test_rises_and_falls_are_those_of_the_services_answers(open_page, service, exclude):
    page = open_page(address(service, unmarked(PLAYS), exclude=exclude))
    expect(page.locator("#skips .list")).to_have_count(1)
    page.get_by_role("button", name="t_017: skipped").click()
    expect(page.locator("#skips .list")).to_have_count(2)
    after = recommended(service, PLAYS, exclude)
    before = recommended(service, unmarked(PLAYS), exclude)
    expect(page.locator("#skips .summary")).to_have_text(f"Because of the skips: {counts(after, before)}")
    first, second = columns(page)
    assert first == cells(after, before, "100+")
    assert [row[:3] for row in second] == [row[:3] for row in cells(before, after, "")]


def test_where_skips_are_not_read_one_changes_only_what_is_left_out(open_page, service):
    page = open_page(address(service, PLAYS))
    expect(page.locator("#skips .summary")).to_have_text("Because of the skips: nothing moved.")
    first, second = columns(page)
    assert first == second == cells(recommended(service, unmarked(PLAYS)), recommended(service, PLAYS), "")
    expect(page.locator("#skips .why")).to_contain_text("The two columns are equal. In this model a skip shapes the")

    page.get_by_label("Exclude from").select_option("skipped")
    expect(page.locator("#skips .why")).to_contain_text("Every track in both columns has the same score in both.")
    before, after = (recommended(service, plays, "skipped") for plays in (unmarked(PLAYS), PLAYS))
    kept = [one["track"] for one in before if one["track"] != "t_017"]
    assert [row[1] for row in columns(page)[0]] == kept[:10] == [one["track"] for one in after][:10]


def test_an_older_answer_never_replaces_a_newer_one(open_page, service):
    page = open_page(address(service, [("t_005", False)]), script=LATE)
    expect(page.locator("html")).to_have_attribute("data-late", "held")
    page.evaluate("location.hash = '#heard=t_005&heard=t_044'")
    newest = [one["track"] for one in recommended(service, [("t_005", False), ("t_044", False)])][:10]
    expect(page.locator("#skips .track")).to_have_text(newest)
    page.evaluate("release()")
    expect(page.locator("html")).to_have_attribute("data-late", "shown or dropped by now")
    expect(page.locator("#skips .track")).to_have_text(newest)


def test_the_services_sentence_is_shown_and_the_last_lists_stay(open_page, service):
    page = open_page(address(service, PLAYS))
    expect(page.locator("#skips .list")).to_have_count(2)
    before = columns(page)
    page.evaluate("location.hash += '&heard=t_nowhere'")
    expect(page.get_by_role("alert")).to_contain_text("the track 't_nowhere' is not in the export")
    assert columns(page) == before
    page.get_by_role("button", name="Remove t_nowhere").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.route("**/recommend", lambda route: route.abort())
    page.get_by_label("Exclude from").select_option("none")
    expect(page.get_by_role("alert")).to_have_text("The service does not answer: is it still running?")
    assert columns(page) == before


def test_two_models_stand_side_by_side(open_page, two_models):
    page = open_page(address(two_models, PLAYS))
    main, blind = (recommended(two_models, PLAYS, export=name) for name in ("main", "compare"))
    expect(page.locator("#models .summary")).to_have_text(f"From the second model to the first: {counts(main, blind)}")
    first, second = columns(page, "models")
    assert first == cells(main, blind, "100+")
    assert [row[:3] for row in second] == [row[:3] for row in cells(blind, main, "")]
    captions = ["best, trained on skips", "best-skip-blind, trained without skips"]
    expect(page.locator("#models h3")).to_have_text(captions)
    expect(page.locator("#models .why")).to_contain_text("include the effect of skips")
    expect(page.locator("#models .why")).not_to_contain_text("vocabularies")


def test_models_of_other_tracks_say_so(open_page, exports):
    with serving(export=exports / "main", compare=exports / "other") as url:
        page = open_page(address(url, [("t_001", False)]))
        expect(page.locator("#models .why")).to_contain_text("different vocabularies")
        expect(page.locator("#models .why")).to_contain_text("not an effect of skips")
        assert TRACKS[150] not in OTHER_TRACKS
        page.evaluate(f"location.hash = '#heard={TRACKS[150]}'")
        expect(page.locator("#models").get_by_role("alert")).to_contain_text("is not in the export")
        expect(page.locator("#skips .track")).to_have_text(
            [one["track"] for one in recommended(url, [(TRACKS[150], False)])][:10]
        )


def test_a_model_that_does_not_read_skipped_tracks_is_told_apart(open_page, exports):
    plays = [("t_005", False), ("t_017", True)]
    with serving(export=exports / "other") as url:
        page = open_page(address(url, plays))
        expect(page.locator("#skips .why")).to_contain_text("The scores differ: this model was")
        assert columns(page)[0] == cells(recommended(url, plays), recommended(url, unmarked(plays)), "100+")
