// The search for a track: a combobox with the service's suggestions, used by typing, arrow keys, Enter and Escape.
import { element, find } from "./elements.js";
import { learn, named } from "./names.js";
import { ask, latest } from "./service.js";

const LIMIT = 20;

/** Sets up the field; `add(track)` is called with the chosen one. */
export function setUpSearch(add) {
  const input = find("#search");
  const list = find("#suggestions");
  const status = find("#search-status");
  let active = -1;
  let pending = Promise.resolve();

  const lookUp = latest(
    100,
    (signal, q) => ask(`tracks?${new URLSearchParams({ q, limit: LIMIT })}`, { signal }),
    ({ tracks }, q) => {
      learn(tracks);
      if (document.activeElement !== input) return;
      show(tracks.map(({ track }) => track));
      const more = tracks.length === LIMIT ? " or more" : "";
      const wanted = q && ` for “${q}”`;
      status.textContent = `${tracks.length || "No"}${more} tracks${wanted}.`;
    },
    (error) => {
      show([]);
      status.textContent = error.message;
    },
  );

  function option(track, place) {
    const made = element("li", { role: "option", id: `suggestion-${place}`, "aria-selected": "false", "data-track": track }, ...named(track));
    // mousedown comes before the blur that closes the list.
    made.addEventListener("mousedown", (event) => {
      event.preventDefault();
      choose(track);
    });
    return made;
  }

  function show(tracks) {
    list.replaceChildren(...tracks.map(option));
    list.hidden = !tracks.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    activate(tracks.length ? 0 : -1);
  }

  function activate(place) {
    active = place;
    for (const [number, one] of [...list.children].entries()) {
      one.setAttribute("aria-selected", String(number === place));
      if (number === place) one.scrollIntoView({ block: "nearest" });
    }
    if (place < 0) input.removeAttribute("aria-activedescendant");
    else input.setAttribute("aria-activedescendant", list.children[place].id);
  }

  function choose(track) {
    input.value = "";
    status.textContent = "";
    show([]);
    add(track);
  }

  const search = () => (pending = lookUp(input.value));
  input.addEventListener("input", () => {
    show([]);
    search();
  });
  input.addEventListener("blur", () => show([]));
  input.addEventListener("keydown", async (event) => {
    const { length } = list.children;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (length) activate((active + (event.key === "ArrowDown" ? 1 : -1) + length) % length);
      else search();
    } else if (event.key === "Enter") {
      event.preventDefault();
      // Enter may be pressed before the suggestions have arrived.
      if (input.value) await pending;
      if (active >= 0) choose(list.children[active].dataset.track);
    } else if (event.key === "Escape") {
      if (!length) input.value = "";
      status.textContent = "";
      show([]);
    }
  });
}
