// Two ranked lists side by side, with what rose, fell, entered and left as arrows and in words.
import { changes, leftOut, number } from "./changes.js";
import { element, find, showText } from "./elements.js";
import { makeTable } from "./tables.js";

/** Tracks to request, so that a track outside the shown ones still has a rank. */
export const DEPTH = 100;

/** A function that fills the section: `show(after, before, {titles, plays, exclude, count, lead, why})`. */
export function setUpComparison(section, open) {
  const columns = find(".columns", section);
  const first = makeTable(["Rank", "Track", "Score", "Change"], open);
  const single = makeTable(["Rank", "Track", "Score"], open);
  const second = makeTable(["Rank", "Track", "Score", "Change"], open);

  /** Fills the section with both lists; `why(changed)` is the sentence under the summary. */
  function show(after, before, { titles, plays, exclude, count, lead, why }) {
    const changed = changes(after, before, count);
    const badges = badgesOf(plays);
    const absent = leftOut(plays, exclude);
    const shown = (rows, moveOf) => rows.map((row) => ({ ...row, badge: badges.get(row.track), move: moveOf(row) }));
    place(first.table, second.table);
    first.show(titles[0], shown(changed.after, (row) => moveTo(row, count)));
    second.show(titles[1], shown(changed.before, (row) => moveFrom(row, count, absent)));
    showText(find(".summary", section), summary(lead, changed));
    showText(find(".why", section), why(changed));
    name(changed, absent);
  }

  /** One list alone, with a sentence instead of a comparison. */
  function showOne(list, { title, plays, count, summary }) {
    const badges = badgesOf(plays);
    place(single.table);
    const rows = list.slice(0, count).map((one, rank) => ({ ...one, rank: rank + 1, badge: badges.get(one.track) }));
    single.show(title, rows);
    clear(summary);
  }

  function showNone(text) {
    place();
    clear(text);
  }

  function clear(text) {
    showText(find(".summary", section), text);
    showText(find(".why", section), "");
    find(".names", section).hidden = true;
  }

  function place(...tables) {
    if (tables.length !== columns.children.length || tables.some((table) => table.parentNode !== columns)) {
      columns.replaceChildren(...tables);
    }
  }

  function name({ entered, left }, absent) {
    const lines = [
      ["Entered", entered.map(({ track, other }) => `${track} (from ${placed(other)})`)],
      ["Left", left.map(({ track, other }) => `${track} (${absent.has(track) ? "left out" : `to ${placed(other)}`})`)],
    ].filter(([, tracks]) => tracks.length);
    const names = find(".names", section);
    names.replaceChildren(
      ...lines.flatMap(([term, tracks]) => [element("dt", {}, term), element("dd", {}, tracks.join(", "))]),
    );
    names.hidden = !lines.length;
  }

  return { show, showOne, showNone };
}

const placed = (place) => `${place ?? `${DEPTH}+`}`;
const spoken = (place) => `${place ?? `beyond ${DEPTH}`}`;

function badgesOf(plays) {
  return new Map(plays.map(({ track, skipped }) => [track, skipped ? "skipped" : "heard"]));
}

function summary(lead, { equal, rose, fell, entered, left }) {
  if (equal) return `${lead}: nothing moved.`;
  return `${lead}: ${rose} rose, ${fell} fell, ${entered.length} entered, ${left.length} left.`;
}

/** How a row of the first list came to its rank. */
function moveTo({ rank, other }, shown) {
  if (!(other <= shown)) {
    return { kind: "rose", sign: "▲", text: `from ${placed(other)}`, spoken: `entered, from ${spoken(other)}` };
  }
  return moved(other - rank);
}

/** Where a row of the second list went. */
function moveFrom({ track, rank, other }, shown, absent) {
  if (absent.has(track) && other === undefined) return { kind: "fell", sign: "✕", text: "left out", spoken: "left out" };
  if (!(other <= shown)) {
    return { kind: "fell", sign: "▼", text: `to ${placed(other)}`, spoken: `left, to ${spoken(other)}` };
  }
  return moved(rank - other, ` to ${other}`);
}

function moved(places, where = "") {
  if (!places) return { kind: "same", sign: "=", text: "", spoken: "stays" };
  const [kind, sign] = places > 0 ? ["rose", "▲"] : ["fell", "▼"];
  const count = Math.abs(places);
  return { kind, sign, text: `${count}`, spoken: `${kind} ${number(count, "place")}${where}` };
}
