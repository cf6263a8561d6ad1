// Ranked lists as tables.
import { element, find } from "./elements.js";

/** `{table, show(title, rows)}`: a table of tracks; `open(track)` is called for the track whose button is pressed. */
export function makeTable(headings, open) {
  const caption = element("caption");
  const body = element("tbody");
  const heads = headings.map((heading) => element("th", { scope: "col" }, heading));
  const table = element("table", {}, caption, element("thead", {}, element("tr", {}, ...heads)), body);

  /** `rows`: {track, score, badge, move}, best first, where `move` is {kind, text, spoken}. The focus stays on its track. */
  function show(title, rows) {
    const focused = body.contains(document.activeElement) && document.activeElement.textContent;
    caption.textContent = title;
    body.replaceChildren(...rows.map(row));
    if (focused) {
      const place = rows.findIndex(({ track }) => track === focused);
      find("button", body.rows[place] ?? body)?.focus();
    }
  }

  function row({ track, score, badge, move }, place) {
    const name = element("button", { type: "button", class: "link", "aria-haspopup": "dialog", onclick: () => open(track) }, track);
    return element(
      "tr",
      {},
      element("td", { class: "rank" }, place + 1),
      element("td", { class: "track" }, name, ...(badge ? [" ", element("span", { class: "badge" }, badge)] : [])),
      element("td", { class: "score" }, score.toFixed(3)),
      ...(move ? [moveCell(move)] : []),
    );
  }
  return { table, show };
}

function moveCell({ kind, text, spoken }) {
  const [seen, unseen] = [element("span", { "aria-hidden": "true" }, text), element("span", { class: "unseen" }, spoken)];
  return element("td", { class: kind }, seen, unseen);
}
