// Two ranked lists side by side, with what rose, fell, entered and left as arrows and in words.
import { makeCards } from "./cards.js";
import { changes, leftOut, summary } from "./changes.js";
import { find, showText } from "./elements.js";

/** Tracks to request, so that a track outside the shown ones still has a rank. */
export const DEPTH = 100;

/** A section that shows two lists, `show`; one, `showOne`; or none, `showNone`. */
export function setUpComparison(section, open) {
  const columns = find(".columns", section);
  const first = makeCards(open);
  const second = makeCards(open);

  /** Fills the section with both lists; `why(changed)` is the sentence under the summary. */
  function show(after, before, { titles, plays, next, exclude, count, lead, why }) {
    const changed = changes(after, before, count);
    const absent = leftOut(plays, exclude);
    const badged = withBadges(plays, next);
    place(first.box, second.box);
    first.show(titles[0], changed.after.map((row) => ({ ...badged(row), move: moveTo(row, count) })));
    second.show(titles[1], changed.before.map((row) => ({ ...badged(row), move: moveFrom(row, count, absent) })));
    describe(`${lead}: ${summary(changed)}`, why(changed));
  }

  /** One list alone, with a sentence instead of a comparison. */
  function showOne(list, { title, plays, next, count, summary }) {
    place(first.box);
    first.show(title, list.slice(0, count).map(withBadges(plays, next)));
    describe(summary);
  }

  function showNone(text) {
    place();
    describe(text);
  }

  function place(...boxes) {
    // An element that is put where it already is would lose the focus.
    for (const gone of [...columns.children].filter((box) => !boxes.includes(box))) gone.remove();
    columns.append(...boxes.filter((box) => box.parentNode !== columns));
  }

  function describe(summary, why = "") {
    showText(find(".summary", section), summary);
    showText(find(".why", section), why);
  }

  return { show, showOne, showNone };
}

const placed = (place) => place ?? `${DEPTH}+`;

/** Adds to a row whether the session has its track, or the listener played it `next`. */
function withBadges(plays, next) {
  const badges = new Map([[next, "played next"], ...plays.map(({ track, skipped }) => [track, skipped ? "skipped" : skipped === null ? "played" : "heard"])]);
  return (row) => ({ ...row, badge: badges.get(row.track) });
}

/** How a row of the first list came to its rank. */
function moveTo({ rank, other }, shown) {
  if (other <= shown) return moved(other - rank);
  return { kind: "rose", text: `▲ from ${placed(other)}`, spoken: `entered, from ${placed(other)}` };
}

/** Where a row of the second list went. */
function moveFrom({ track, rank, other }, shown, absent) {
  if (other <= shown) return moved(rank - other, ` to ${other}`);
  if (absent.has(track) && !other) return { kind: "fell", text: "✕ left out", spoken: "left out" };
  return { kind: "fell", text: `▼ to ${placed(other)}`, spoken: `left, to ${placed(other)}` };
}

function moved(places, where = "") {
  if (!places) return { text: "=", spoken: "stays" };
  const [kind, sign] = places > 0 ? ["rose", "▲"] : ["fell", "▼"];
  const count = Math.abs(places);
  return { kind, text: `${sign} ${count}`, spoken: `${kind} ${count} place${count === 1 ? "" : "s"}${where}` };
}
