// Two ranked lists side by side, with what rose, fell, entered and left as arrows and in words.
import { changes, leftOut } from "./changes.js";
import { element, find, showText } from "./elements.js";
import { nameOf } from "./names.js";
import { makeTable } from "./tables.js";

/** Tracks to request, so that a track outside the shown ones still has a rank. */
export const DEPTH = 100;

/** A section that shows two lists, `show`; one, `showOne`; or none, `showNone`. */
export function setUpComparison(section, open) {
  const columns = find(".columns", section);
  const first = makeTable(open, { last: "Change" });
  const second = makeTable(open, { last: "Change" });
  const single = makeTable(open);

  /** Fills the section with both lists; `why(changed)` is the sentence under the summary. */
  function show(after, before, { titles, plays, exclude, count, lead, why }) {
    const changed = changes(after, before, count);
    const absent = leftOut(plays, exclude);
    const badged = withBadges(plays);
    place(first.table, second.table);
    first.show(titles[0], changed.after.map((row) => ({ ...badged(row), move: moveTo(row, count) })));
    second.show(titles[1], changed.before.map((row) => ({ ...badged(row), move: moveFrom(row, count, absent) })));
    describe(summary(lead, changed), why(changed), [
      ["Entered", changed.entered.map(({ track, other }) => `${nameOf(track)} (from ${placed(other)})`)],
      ["Left", changed.left.map(({ track, other }) => `${nameOf(track)} (${absent.has(track) ? "left out" : `to ${placed(other)}`})`)],
    ]);
  }

  /** One list alone, with a sentence instead of a comparison. */
  function showOne(list, { title, plays, count, summary }) {
    place(single.table);
    single.show(title, list.slice(0, count).map(withBadges(plays)));
    describe(summary);
  }

  function showNone(text) {
    place();
    describe(text);
  }

  function place(...tables) {
    // An element that is put where it already is would lose the focus.
    if (tables.length !== columns.children.length || tables[0] !== columns.firstChild) columns.replaceChildren(...tables);
  }

  function describe(summary, why = "", names = []) {
    showText(find(".summary", section), summary);
    showText(find(".why", section), why);
    const lines = names.filter(([, tracks]) => tracks.length);
    const list = find(".names", section);
    list.replaceChildren(...lines.flatMap(([term, tracks]) => [element("dt", {}, term), element("dd", {}, tracks.join(", "))]));
    list.hidden = !lines.length;
  }

  return { show, showOne, showNone };
}

const placed = (place) => place ?? `${DEPTH}+`;

/** Adds to a row whether the session has its track. */
function withBadges(plays) {
  const badges = new Map(plays.map(({ track, skipped }) => [track, skipped ? "skipped" : "heard"]));
  return (row) => ({ ...row, badge: badges.get(row.track) });
}

function summary(lead, { equal, rose, fell, entered, left }) {
  if (equal) return `${lead}: nothing moved.`;
  return `${lead}: ${rose} rose, ${fell} fell, ${entered.length} entered, ${left.length} left.`;
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
