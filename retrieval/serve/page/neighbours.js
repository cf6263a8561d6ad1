// The dialog of one track: its nearest tracks in the embedding table, and buttons that add it to the session.
import { find, showText } from "./elements.js";
import { learn, nameOf } from "./names.js";
import { ask, latest } from "./service.js";
import { makeTable } from "./tables.js";

/** A function that opens the dialog for a track; `add(track, skipped)` appends it to the session. */
export function setUpNeighbours(add) {
  const dialog = find("#neighbours");
  const neighbours = makeTable(open, { score: "Cosine" });
  const show = (tracks) => neighbours.show("Nearest in the embedding table, by cosine", tracks);
  find(".failure", dialog).after(neighbours.table);
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

  function open(track) {
    current = track;
    find("h2", dialog).textContent = `Tracks like ${nameOf(track)}`;
    showText(find(".failure", dialog), "");
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
