"""P(kept), the dial and the mood of an export with a keep head, against the service's own answers."""

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import serving
from tests.page.exports import CURVE
from tests.page.oracle import address, cells, counts, recommended, unmarked
from tests.page.test_changes import PLAYS, columns

FIGURES = {
    "hr_at_10": "HR@10",
    "kept_hr_at_10": "HR@10 of kept tracks",
    "skipped_hr_at_10": "HR@10 of skipped tracks",
    "pairs_in_order": "Kept above skipped, in pairs",
}


def cost(page: Page) -> list[list[str]]:
    return [row.split("\t") for row in page.locator("#dial-cost tbody").inner_text().splitlines()]


def share(ranked: list[dict]) -> str:
    """Of the ten best that are expected to be skipped."""
    return f"{100 * sum(1 - one['kept'] for one in ranked[:10]) / 10:.0f} %"


@pytest.mark.parametrize("dial", [0, 2])
def test_marking_a_track_ranks_anew_at_once(open_page, dialled, dial: float):
    page = open_page(address(dialled, unmarked(PLAYS), dial=dial))
    before = recommended(dialled, unmarked(PLAYS), dial=dial)
    expect(page.locator("#skips .track")).to_have_text([one["track"] for one in before[:10]])
    page.get_by_role("button", name="t_017: skipped").click()
    after = recommended(dialled, PLAYS, dial=dial)
    assert [one["track"] for one in after[:10]] != [one["track"] for one in before[:10]], "the case says something"
    expect(page.locator("#skips .summary")).to_have_text(f"Because of the skips: {counts(after, before)}")
    first, second = columns(page)
    assert first == cells(after, before, "100+")
    assert [row[:4] for row in second] == [row[:4] for row in cells(before, after, "")]
    expect(page.locator("#skips h3").nth(1)).to_have_text("Had none been skipped")
    expect(page.locator("#skips .why")).to_contain_text("This model reads what happened to each track")
    bars = page.locator("#skips .list").first.locator(".kept meter")
    assert [bar.evaluate("bar => bar.value") for bar in bars.all()] == pytest.approx(
        [one["kept"] for one in after[:10]], abs=6e-4
    )


def test_the_slider_stands_at_measured_settings_with_their_cost(open_page, dialled):
    page = open_page(address(dialled, PLAYS))
    slider = page.get_by_role("slider", name="Weight of P(kept) in the ranking")
    expect(slider).to_have_attribute("max", str(len(CURVE) - 1))
    expect(page.locator("#dial-value")).to_have_text("off")
    expect(page.locator("#dial-cost caption")).to_have_text(
        "Measured on 5,012 validation targets. The setting auto is 0.5."
    )
    assert cost(page)[:4] == [[text, f"{CURVE[0][name]:.3f}"] for name, text in FIGURES.items()]
    slider.focus()
    for point in CURVE[1:]:
        page.keyboard.press("ArrowRight")
        expect(page.locator("#dial-value")).to_have_text(f"{point['dial']:g}")
        ranked = recommended(dialled, PLAYS, dial=point["dial"])
        expect(page.locator("#skips .list").first.locator(".track")).to_have_text([one["track"] for one in ranked[:10]])
        for row, (name, text) in zip(cost(page), FIGURES.items(), strict=False):
            off, change = CURVE[0][name], point[name] - CURVE[0][name]
            sign = "+" if change >= 0 else "−"
            assert row == [text, f"{off:.3f}", f"{point[name]:.3f}", f"{sign}{abs(change):.3f}"]
        assert cost(page)[-1] == ["Expected to be skipped, of ten", "0.950", "0.950", "0.000"]
    assert page.evaluate("location.hash").endswith("dial=2")
    page.reload()
    expect(page.locator("#dial-value")).to_have_text("2")
    expect(page.locator("#skips .list").first.locator(".track")).to_have_text([one["track"] for one in ranked[:10]])


def test_a_setting_that_was_not_measured_says_so(open_page, dialled):
    page = open_page(address(dialled, PLAYS, dial=0.7))
    expect(page.locator("#dial-cost caption")).to_contain_text("0.7 itself was not measured.")
    expect(page.get_by_role("slider")).to_have_value("1")
    ranked = recommended(dialled, PLAYS, dial=0.7)
    expect(page.locator("#skips .list").first.locator(".track")).to_have_text([one["track"] for one in ranked[:10]])


def test_the_mood_is_what_the_model_expects_of_the_ten_best(open_page, dialled, exports):
    page = open_page(address(dialled, PLAYS))
    after, before = recommended(dialled, PLAYS), recommended(dialled, unmarked(PLAYS))
    said = f"{share(after)} of the ten best are expected to be skipped; 95 % on average."
    expect(page.locator("#mood")).to_have_text(f"{said} Had none been skipped: {share(before)}.")
    expect(page.locator("#mood")).not_to_contain_class("skipping")
    page.get_by_label("Tracks to show").select_option("50")
    expect(page.locator("#skips .card")).to_have_count(100)
    expect(page.locator("#mood")).to_contain_text(said)
    page.get_by_role("button", name="t_017: skipped").click()
    expect(page.locator("#mood")).to_have_text(
        f"{share(before)} of the ten best are expected to be skipped; 95 % on average."
    )
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#mood")).to_be_hidden()
    with serving(own_encoder=True, export=exports / "gloomy") as url:
        page = open_page(address(url, PLAYS))
        expect(page.locator("#mood")).to_contain_text(f"Skipping mood: {share(after)} of the ten best")
        expect(page.locator("#mood")).to_contain_class("skipping")


def test_without_a_keep_head_there_is_none_of_it(open_page, service):
    page = open_page(address(service, PLAYS, dial=0.5))
    expect(page.locator("#dial-missing")).to_have_text("This export has no keep head, so dial=0.5 does nothing.")
    expect(page.locator("#skips .card")).to_have_count(20)
    for part in ("#mood", "#dial-option"):
        expect(page.locator(part)).to_be_hidden()
    assert page.locator("#skips .kept").count() == 0
