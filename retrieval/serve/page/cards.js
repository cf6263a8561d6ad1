// Ranked lists as tables.
import { element, find } from "./elements.js";
import { nameOf } from "./names.js";

/**
 * `{table, show(title, rows)}`: a table of tracks; `open(track)` is called for the track whose button is pressed. `score` and
 * `last` are headings: of the scores, and of a last column, if there is one.
 */
export function makeTable(open, { score = "Score", last } = {}) {
  const caption = element("caption");
  const head = element("tr");
  const body = element("tbody");
  const table = element("table", {}, caption, element("thead", {}, head), body);

  /**
   * `rows`: {track, score, kept, badge, move}, best first, where `move` is {kind, text, spoken}; `kept` is a probability, or
   * null in all of them. The focus stays on its track.
   */
  function show(title, rows) {
    const focused = body.contains(document.activeElement) && document.activeElement.dataset.track;
    caption.textContent = title;
    const chances = rows.some(({ kept }) => kept != null) ? ["P(kept)"] : [];
    const headings = ["Rank", "Track", score, ...chances, ...(last ? [last] : [])];
    head.replaceChildren(...headings.map((heading) => element("th", { scope: "col" }, heading)));
    body.replaceChildren(...rows.map(row));
    if (focused) {
      const place = rows.findIndex(({ track }) => track === focused);
      find("button", body.rows[place] ?? body)?.focus();
    }
  }

  function row({ track, score: value, kept, badge, move }, place) {
    const does = { type: "button", class: "link", "aria-haspopup": "dialog", "data-track": track, onclick: () => open(track) };
    const name = element("button", does, nameOf(track));
    return element(
      "tr",
      {},
      element("td", { class: "rank" }, place + 1),
      element("td", { class: "track" }, name, ...(badge ? [" ", element("span", { class: "badge" }, badge)] : [])),
      element("td", { class: "score" }, value.toFixed(3)),
      ...(kept == null ? [] : [keptCell(kept)]),
      ...(move ? [moveCell(move)] : []),
    );
  }
  return { table, show };
}

function keptCell(kept) {
  const percent = `${Math.round(100 * kept)} %`;
  return element("td", { class: "kept" }, element("meter", { min: 0, max: 1, value: kept.toFixed(3), "aria-hidden": "true" }), percent);
}

function moveCell({ kind, text, spoken }) {
  const [seen, unseen] = [element("span", { "aria-hidden": "true" }, text), element("span", { class: "unseen" }, spoken)];
  return element("td", { class: kind }, seen, unseen);
}
