// Ranked lists as cards, which glide to their new places when the list is ranked anew.
import { element, find } from "./elements.js";
import { named, titleOf } from "./names.js";

const GLIDE = { duration: 300, easing: "ease-out" };
const still = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * `{box, show(title, rows)}`: a list of tracks under its title; `open(row)` is called for the card whose button is pressed.
 * `score`: what the scores are called.
 */
export function makeCards(open, { score = "Score" } = {}) {
  const heading = element("h3");
  const list = element("ol", { class: "cards" });
  const box = element("div", { class: "list" }, heading, list);

  /**
   * `rows`: {track, score, kept, badge, nearest, move}, best first, where `move` is {kind, text, spoken}, and `kept` is a
   * probability. The focus stays on its track.
   */
  function show(title, rows) {
    const focused = list.contains(document.activeElement) && document.activeElement.dataset.track;
    const places = new Map([...list.children].map((card) => [card.dataset.track, card.offsetTop]));
    heading.textContent = title;
    list.setAttribute("aria-label", title);
    list.replaceChildren(...rows.map(card));
    if (focused) {
      const place = rows.findIndex(({ track }) => track === focused);
      find("button", list.children[place] ?? list)?.focus();
    }
    if (places.size && !still.matches) glide(places);
  }

  function glide(places) {
    for (const card of list.children) {
      const from = places.get(card.dataset.track);
      if (from === undefined) card.animate([{ opacity: 0 }, { opacity: 1 }], GLIDE);
      else card.animate([{ translate: `0 ${from - card.offsetTop}px` }, { translate: "0" }], GLIDE);
    }
  }

  function card(row, place) {
    const { track, badge, kept, nearest, move } = row;
    const facts = [element("span", { class: "score" }, `${score} `, row.score.toFixed(3))];
    if (kept != null) facts.push(keptBar(kept));
    if (move) facts.push(element("span", { class: "move" }, element("span", { "aria-hidden": "true" }, move.text), unseen(move.spoken)));
    if (nearest?.length) facts.push(element("span", { class: "near" }, `like ${titleOf(nearest[0].track)}`));
    return element(
      "li",
      { "data-track": track, class: move?.kind ? `card ${move.kind}` : "card" },
      element("span", { class: "rank" }, place + 1),
      element(
        "div",
        { class: "track" },
        element("button", { type: "button", class: "link", "aria-haspopup": "dialog", "data-track": track, onclick: () => open(row) }, ...named(track)),
        ...(badge ? [" ", element("span", { class: "badge" }, badge)] : []),
      ),
      element("div", { class: "facts" }, ...facts),
    );
  }
  return { box, show };
}

const unseen = (text) => element("span", { class: "unseen" }, text);

function keptBar(kept) {
  const meter = element("meter", { min: 0, max: 1, value: kept.toFixed(3), "aria-hidden": "true" });
  return element("span", { class: "kept" }, element("span", { class: "label" }, "P(kept) "), meter, `${Math.round(100 * kept)} %`);
}
