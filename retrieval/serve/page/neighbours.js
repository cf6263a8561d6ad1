// The dialog of one track: which of the played tracks it is near to, its nearest tracks in the table, and buttons that play it.
import { makeCards } from "./cards.js";
import { find, showText } from "./elements.js";
import { learn, nameOf } from "./names.js";
import { ask, latest } from "./service.js";

/** A function that opens the dialog for a row {track, nearest}; `add(track, skipped)` appends its track to the session. */
export function setUpNeighbours(add) {
  const dialog = find("#neighbours");
  const played = makeCards(open, { score: "Cosine" });
  const neighbours = makeCards(open, { score: "Cosine" });
  const withScores = (tracks) => tracks.map(({ cosine, ...track }) => ({ ...track, score: cosine }));
  const show = (tracks) => neighbours.show("Nearest of all tracks", tracks);
  find(".lists", dialog).append(played.box, neighbours.box);
  let current;

  const load = latest(
    0,
    (signal, track) => ask(`similar/${encodeURIComponent(track)}?k=10&by=cosine`, { signal }),
    ({ tracks }) => {
      learn(tracks);
      show(tracks);
    },
    (error) => showText(find(".failure", dialog), error.message),
  );

  function open({ track, nearest = [] }) {
    current = track;
    find("h2", dialog).textContent = nameOf(track);
    showText(find(".failure", dialog), "");
    played.show("Nearest of the tracks played", withScores(nearest));
    played.box.hidden = !nearest.length;
    show([]);
    if (!dialog.open) dialog.showModal();
    find("#add-heard").focus();
    load(track);
  }

  for (const [id, skipped] of [["#add-heard", false], ["#add-skipped", true]]) {
    find(id).addEventListener("click", () => {
      dialog.close();
      add(current, skipped);
    });
  }
  find("#close-neighbours").addEventListener("click", () => dialog.close());
  return open;
}
