// What changed from one ranked list to another, and why. Lists are longer than what is shown, so that tracks that
// entered or left the shown part have a rank too.

/**
 * Compares lists of {track, score}, best first, of which `shown` are on the page.
 * Returns `after` and `before` as shown, each track with its `rank` and its `other` rank (undefined: not listed); how
 * many `rose`, `fell` or stayed (`same`) among those shown in both; which `entered` and which `left`; `equal`: nothing
 * moved; `rescored`: a track has another score.
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

/** Ignores the last digits of a score, which may change with the size of the batch that the service answered in. */
function rescored(after, before) {
  const scores = new Map(before.map(({ track, score }) => [track, score]));
  return after.some(({ track, score }) => Math.abs(score - (scores.get(track) ?? score)) > 1e-4 * (1 + Math.abs(score)));
}

/** How many tracks moved, in words. */
export function summary({ equal, rose, fell, entered, left }) {
  return equal ? "nothing moved." : `${rose} rose, ${fell} fell, ${entered.length} entered, ${left.length} left.`;
}

/** The tracks that the service excludes from its answer for these plays. */
export function leftOut(plays, exclude) {
  const chosen = { session: () => true, kept: (play) => !play.skipped, skipped: (play) => play.skipped, none: () => false };
  return new Set(plays.filter(chosen[exclude]).map(({ track }) => track));
}

/** The sentence under the comparison with and without the skip flags; `changed` is what changes() returned. */
export function explainSkips({ exclude, trained_on_skips: trained, reads }, changed) {
  if (reads.includes("skips")) return "This model reads what happened to each track of the session, so marking one changes the scores.";
  if (changed.rescored) {
    return (
      "The scores differ: this model was trained on sessions without their skipped tracks, so it does not read the tracks " +
      "that are marked."
    );
  }
  const model = trained
    ? "In this model a skip shapes the embeddings in training, not the query"
    : "This model uses skips neither in training nor in the query";
  const rule = `${model}: marking one changes only which tracks are left out.`;
  if (!changed.equal) return `${rule} Every track in both columns has the same score in both.`;
  const same = ["session", "none"].includes(exclude) ? "those left out are the same" : "none of those shown is left out";
  return `The two columns are equal. ${rule} Here ${same}.`;
}

/** The mean of 1 - P(kept) of the ten best; undefined without P(kept). */
function expectedSkips(list) {
  const chances = list.slice(0, 10).map(({ kept }) => kept);
  if (!chances.length || chances.some((kept) => kept == null)) return undefined;
  return chances.reduce((sum, kept) => sum + 1 - kept, 0) / chances.length;
}

/**
 * How much the model expects this listener to skip: `share` of the ten best, `skipping` where that is clearly more than
 * `usual`, the mean that the export measured, and the `text`. Undefined without P(kept). `before`: see changes(), if any.
 */
export function moodOf(after, before, usual) {
  const share = expectedSkips(after);
  if (share === undefined) return undefined;
  const skipping = share >= usual + CLEARLY;
  const other = before ? ` Had none been skipped: ${percent(expectedSkips(before))}.` : "";
  const text = `${percent(share)} of the ten best are expected to be skipped; ${percent(usual)} on average.${other}`;
  return { share, skipping, text: skipping ? `Skipping mood: ${text}` : text };
}

const CLEARLY = 0.1;
const percent = (share) => `${Math.round(100 * share)} %`;

/** The sentences under the comparison of two models, as /exports describes them. */
export function explainModels(main, compare) {
  const sentences = [];
  if (main.vocabulary_hash !== compare.vocabulary_hash) {
    sentences.push(
      "The two have different vocabularies (their hashes differ), so a track of one may be unknown to the other.",
    );
  }
  if (main.trained_on_skips === compare.trained_on_skips) {
    const both = main.trained_on_skips ? "Both were" : "Neither was";
    sentences.push(`${both} trained on skips, so these differences are not an effect of skips.`);
  } else {
    sentences.push(
      "One model was trained on skips, the other without them: these differences include the effect of skips. Two runs also differ by chance.",
    );
  }
  if (Boolean(main.keep) !== Boolean(compare.keep)) sentences.push("Only one of them has a P(kept); the other is ranked without the dial.");
  sentences.push("Compare ranks: scores of two models have no common scale.");
  return sentences.join(" ");
}
