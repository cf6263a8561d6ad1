// The session as a list: each play can be marked as skipped, moved and removed, and the keyboard focus stays on it.
import { element, find } from "./elements.js";
import { named, nameOf } from "./names.js";

/**
 * A function that shows plays {key, track, skipped}; `change(plays, message)` is called when a button
 * changes them. `skipped` is null where it is not known.
 */
export function setUpSession(change) {
  const list = find("#plays");
  let shown = 0;

  return function show(plays) {
    const focused = document.activeElement?.closest?.("#plays button")?.dataset;
    list.replaceChildren(...plays.map((play, place) => row(plays, play, place)));
    find("#empty").hidden = plays.length > 0;
    find("#clear").disabled = plays.length === 0;
    if (plays.length > shown) list.scrollTop = list.scrollHeight;
    shown = plays.length;
    if (focused) refocus(focused);
  };

  function row(plays, play, place) {
    const { key, skipped } = play;
    const track = nameOf(play.track);
    const button = (does, text, label, onclick, more = {}) =>
      element("button", { type: "button", "data-does": does, "data-key": key, "aria-label": label, onclick, ...more }, text);
    const moved = (by) => () => {
      const next = plays.toSpliced(place, 1).toSpliced(place + by, 0, play);
      change(next, `${track} is now number ${place + by + 1} of ${plays.length}.`);
    };
    const toggle = () => {
      const next = plays.with(place, { ...play, skipped: !skipped });
      change(next, `${track} is ${skipped ? "no longer" : "now"} marked as skipped.`);
    };
    const remove = () => change(plays.toSpliced(place, 1), `${track} is removed.`);
    const unknown = skipped === null;
    const line = element(
      "div",
      {},
      element("span", { class: "track" }, ...named(play.track), ...(unknown ? [" ", element("small", {}, "skip not known")] : [])),
      button("skip", "", `${track}: skipped`, toggle, {
        class: "skip",
        title: unknown ? "It is not known whether this was skipped. Mark it as skipped" : "Skipped",
        "aria-pressed": unknown ? "mixed" : String(skipped),
      }),
      button("up", "↑", `Move ${track} up`, moved(-1), { class: "plain", disabled: place === 0 }),
      button("down", "↓", `Move ${track} down`, moved(1), { class: "plain", disabled: place === plays.length - 1 }),
      button("remove", "✕", `Remove ${track}`, remove, { class: "plain" }),
    );
    return element("li", { class: `play ${unknown ? "unknown" : skipped ? "skipped" : ""}` }, line);
  }

  /** Focuses the same button of the same play, or the nearest one if that is gone or disabled. */
  function refocus({ key, does }) {
    const own = list.querySelectorAll(`[data-key="${key}"]`);
    const same = [...own].find((button) => button.dataset.does === does && !button.disabled);
    const target = same ?? [...own].find((button) => !button.disabled) ?? list.querySelector('[data-does="remove"]');
    (target ?? find("#search")).focus();
  }
}
