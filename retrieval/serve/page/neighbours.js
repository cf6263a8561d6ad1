// The dialog of one track: its nearest tracks in the embedding table, and buttons that add it to the session.
import { find, showText } from "./elements.js";
import { ask, latest } from "./service.js";
import { trackRow } from "./tables.js";

/** A function that opens the dialog for a track; `add(track, skipped)` appends it to the session. */
export function setUpNeighbours(add) {
  const dialog = find("#neighbours");
  let current;

  const load = latest(
    0,
    (signal, track) => ask(`similar/${encodeURIComponent(track)}?k=10&by=cosine`, { signal }),
    ({ tracks }) => {
      const rows = tracks.map((one, place) => trackRow({ ...one, rank: place + 1 }, open));
      find("tbody", dialog).replaceChildren(...rows);
    },
    (error) => showText(find(".failure", dialog), error.message),
  );

  function open(track) {
    current = track;
    find("h2", dialog).textContent = `Tracks like ${track}`;
    showText(find(".failure", dialog), "");
    find("tbody", dialog).replaceChildren();
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
