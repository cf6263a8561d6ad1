// The player: the track that is recommended next, to listen to or to skip, and how the list has moved since.
import { changes, summary } from "./changes.js";
import { find } from "./elements.js";
import { named, titleOf } from "./names.js";

/** A function that shows the newest list of the session, if any; `add(track, skipped)` appends its first track. */
export function setUpPlayer(add) {
  const player = find("#player");
  let next, before;

  for (const [id, skipped] of [["#listen", false], ["#skip", true]]) {
    find(id).addEventListener("click", () => {
      const chosen = next;
      next = undefined; // until the list is ranked anew
      if (chosen) add(chosen, skipped);
    });
  }

  /** `list`: {track, nearest}, best first; `count` of them are on the page. */
  return function show(list = [], count) {
    const [best] = list;
    player.hidden = !best;
    next = best?.track;
    if (best) {
      find(".track", player).replaceChildren(...named(next));
      find(".near", player).textContent = best.nearest?.length ? `like ${titleOf(best.nearest[0].track)}` : "";
      const changed = before && changes(list, before, count);
      find("#moved").textContent = changed && !changed.equal ? `The list since: ${summary(changed)}` : "";
    }
    before = best && list;
  };
}
