// What moved from one ranked list to another. Lists are longer than what is shown, so that a track that came from
// below or went there has its place too.

/**
 * Compares lists of {track, score}, best first, of which `shown` are on the page.
 * `after` and `before` come back as shown, each track with its `rank` and its `other` rank (undefined: not listed);
 * with how many `rose`, `fell` or stayed (`same`) among those shown in both, which `entered` and which `left`;
 * `equal`: nothing moved; `rescored`: some track has another score.
 */
export function changes(after, before, shown) {
  const rows = ranked(after, before, shown);
  const gone = ranked(before, after, shown);
  const kept = rows.filter(({ other }) => other <= shown);
  const counted = {
    rose: kept.filter(({ rank, other }) => rank < other).length,
    fell: kept.filter(({ rank, other }) => rank > other).length,
    same: kept.filter(({ rank, other }) => rank === other).length,
    entered: rows.filter((row) => !kept.includes(row)),
    left: gone.filter(({ other }) => !(other <= shown)),
  };
  const equal = counted.same === rows.length && rows.length === gone.length;
  return { after: rows, before: gone, ...counted, equal, rescored: rescored(after, before) };
}

function ranked(list, others, shown) {
  const places = new Map(others.map(({ track }, place) => [track, place + 1]));
  return list.slice(0, shown).map((one, place) => ({ ...one, rank: place + 1, other: places.get(one.track) }));
}

/** Requests are answered in batches, whose size may change the last digits of a score: those do not count. */
function rescored(after, before) {
  const scores = new Map(before.map(({ track, score }) => [track, score]));
  return after.some(({ track, score }) => Math.abs(score - (scores.get(track) ?? score)) > 1e-4 * (1 + Math.abs(score)));
}

/** The tracks that the service leaves out of its answer for these plays. */
export function leftOut(plays, exclude) {
  const chosen = { both: () => true, heard: (play) => !play.skipped, skipped: (play) => play.skipped, none: () => false };
  return new Set(plays.filter(chosen[exclude]).map(({ track }) => track));
}

export const number = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
