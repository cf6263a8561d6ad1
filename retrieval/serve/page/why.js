// What a skip can and cannot change, in a sentence that fits what was just measured.

/** Under the comparison with and without the skip flags; `changed` is what changes() found. */
export function whyOfSkips({ steer, exclude, trained_on_skips: trained }, changed) {
  if (steer) {
    return "Steering moved the query, which the paper does not do: at 0 you see what the skips change by themselves.";
  }
  if (changed.rescored) {
    return (
      "The scores differ without steering: this model was trained on sessions without their skipped tracks, so it does " +
      "not read the tracks that are marked."
    );
  }
  const model = trained
    ? "In this model a skip shapes the embeddings in training, not the query"
    : "This model is blind to skips, in training as in the query";
  const rule = `${model}: without steering, marking one changes only which tracks are left out.`;
  if (!changed.equal) return `${rule} Every track in both columns has the same score in both.`;
  const same = ["both", "none"].includes(exclude) ? "those left out are the same" : "none of those shown is left out";
  return `The two columns are equal. ${rule} Here ${same}. Steering, under the options, moves the query too.`;
}

/** Under the comparison of two models, as /exports describes them. */
export function whyOfModels(main, compare) {
  const sentences = [];
  if (main.vocabulary_hash !== compare.vocabulary_hash) {
    sentences.push(
      "The two have different vocabularies (their hashes differ), so a track of one may be unknown to the other.",
    );
  }
  if (main.trained_on_skips === compare.trained_on_skips) {
    const both = main.trained_on_skips ? "Both were" : "Neither was";
    sentences.push(`${both} trained on skips, so what moved here is not the skips' doing.`);
  } else {
    sentences.push(
      "One model was trained on skips, the other blind to them: here skips had their say. Two runs also differ by chance.",
    );
  }
  sentences.push("Compare places; scores of two models have no common scale.");
  return sentences.join(" ");
}
