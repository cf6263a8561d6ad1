// Ranked lists as tables, whose rows move smoothly to their new places.
import { element, find } from "./elements.js";

/**
 * A table in its column. `columns.rank`, `track`, `score` and `move` are its headings; `open(track)` is called for the
 * track whose button is pressed.
 */
export function makeTable(headings, open) {
  const caption = element("caption");
  const body = element("tbody");
  const heads = headings.map((heading) => element("th", { scope: "col" }, heading));
  const table = element("table", {}, caption, element("thead", {}, element("tr", {}, ...heads)), body);

  /** `rows`: {track, rank, score, badge, move}, where `move` is {kind, sign, text, spoken}. */
  function show(title, rows) {
    caption.textContent = title;
    const focused = body.contains(document.activeElement) ? document.activeElement.textContent : undefined;
    const tops = new Map([...body.rows].map((row) => [row.dataset.track, row.offsetTop]));
    body.replaceChildren(...rows.map((row) => trackRow(row, open)));
    glide(body, tops);
    if (focused !== undefined) {
      const same = [...body.rows].find((row) => row.dataset.track === focused) ?? body.rows[0];
      if (same) find("button", same).focus();
    }
  }
  return { table, show };
}

/** One row of a table: rank, track with its badge, score and, where there is one, its move. */
export function trackRow({ track, rank, score, badge, move }, open) {
  const name = element(
    "button",
    { type: "button", class: "link", "aria-haspopup": "dialog", onclick: () => open(track) },
    track,
  );
  return element(
    "tr",
    { "data-track": track },
    element("td", { class: "rank" }, String(rank)),
    element("td", { class: "track" }, name, ...(badge ? [" ", element("span", { class: "badge" }, badge)] : [])),
    element("td", { class: "score" }, score.toFixed(3)),
    ...(move ? [moveCell(move)] : []),
  );
}

function moveCell({ kind, sign, text, spoken }) {
  return element(
    "td",
    { class: `move ${kind}` },
    element("span", { "aria-hidden": "true" }, `${sign} ${text}`.trim()),
    element("span", { class: "unseen" }, spoken),
  );
}

function glide(body, tops) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches || !tops.size) return;
  for (const row of body.rows) {
    const from = tops.get(row.dataset.track);
    if (from === undefined) row.animate([{ opacity: 0 }, { opacity: 1 }], 300);
    else if (from !== row.offsetTop) {
      row.animate([{ transform: `translateY(${from - row.offsetTop}px)` }, { transform: "none" }], {
        duration: 300,
        easing: "ease-out",
      });
    }
  }
}
