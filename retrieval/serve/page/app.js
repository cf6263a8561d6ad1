// The page: its state, the requests that a change makes, and how the answers are shown.
import * as address from "./address.js";
import { explainModels, explainSkips, moodOf } from "./changes.js";
import { DEPTH, setUpComparison } from "./comparison.js";
import { pointAt, setUpDial } from "./dial.js";
import { element, find, showText } from "./elements.js";
import { learn, nameOf } from "./names.js";
import { setUpNeighbours } from "./neighbours.js";
import { setUpPlayer } from "./player.js";
import { setUpSearch } from "./search.js";
import { ask, latest } from "./service.js";
import { setUpSession } from "./session.js";

const WAIT_MS = 80;
const PLAYED_NAMED = 3;
let state = address.read("").state;
let exports = {};
let keys = 0;
/** {plays, next, button} of each session that the export holds. */
let listeners = [];
const tracksOf = ({ plays }) => JSON.stringify(plays.map(({ track }) => track));

const openNeighbours = setUpNeighbours(add);
const skips = setUpComparison(find("#skips"), openNeighbours);
const models = setUpComparison(find("#models"), openNeighbours);
const showSession = setUpSession((plays, message) => {
  find("#session-status").textContent = message;
  update({ plays });
});
const showDial = setUpDial((dial) => update({ dial }));
const showPlayer = setUpPlayer(add);
setUpSearch((track) => add(track, false));

function add(track, skipped) {
  find("#session-status").textContent = `${nameOf(track)} is added as number ${state.plays.length + 1}.`;
  update({ plays: [...state.plays, { track, skipped }] });
}

/**
 * Applies changes to the state: shows it, writes it to the address and requests new recommendations. What the listener
 * played next is known while the tracks are theirs, however they are marked.
 */
function update(changed) {
  const next = tracksOf({ ...state, ...changed }) === tracksOf(state) ? state.next : undefined;
  state = { ...state, next, ...changed };
  state.plays = state.plays.map((play) => ({ key: ++keys, ...play }));
  history.replaceState(null, "", address.written(state));
  showSession(state.plays);
  for (const one of listeners) {
    one.button.setAttribute("aria-pressed", String(one.next === state.next && tracksOf(one) === tracksOf(state)));
  }
  find("#exclude").value = state.exclude;
  find("#count").value = state.count;
  showDial(exports.main?.keep, state.dial);
  refresh(state);
}

function recommend(signal, { plays, exclude, dial }, { name = "main", flags = true, why = 0 } = {}) {
  const session = plays.map(({ track, skipped }) => ({ track, skipped: skipped && flags }));
  // A model without a keep head has no dial to turn.
  const body = { session, k: DEPTH, exclude, dial: exports[name]?.keep ? dial : 0, unknown: "refuse", export: name, why };
  return ask("recommend", { body, signal });
}

/** Requests all that is shown for one state; an error of the second model does not affect the first. */
async function requestAll(signal, requested) {
  if (!requested.plays.length) return {};
  const [flagged, unflagged, compared] = await Promise.all([
    recommend(signal, requested, { why: PLAYED_NAMED }),
    requested.plays.some(({ skipped }) => skipped) ? recommend(signal, requested, { flags: false }) : undefined,
    exports.compare ? recommend(signal, requested, { name: "compare" }).catch((error) => ({ error })) : undefined,
  ]);
  // A newer export was loaded in between: the difference of two exports would look like an effect of the skips.
  if (unflagged && unflagged.export.loaded !== flagged.export.loaded) return requestAll(signal, requested);
  return { flagged, unflagged, compared };
}

const refresh = latest(
  WAIT_MS,
  requestAll,
  ({ flagged, unflagged, compared }, requested) => {
    showText(find("#failure"), "");
    for (const one of [flagged, unflagged, compared]) learn([...(one?.tracks ?? []), ...(one?.session ?? [])]);
    showSession(state.plays);
    showPlayer(flagged?.tracks, requested.count);
    showNext(flagged, requested);
    showSkips(flagged, unflagged, requested);
    showModels(flagged, compared, requested);
    const loaded = [exports.main?.loaded, exports.compare?.loaded];
    if (exports.main && loaded.some((one, place) => one !== ([flagged, compared][place]?.export?.loaded ?? one))) showExports();
  },
  (error) => showText(find("#failure"), error.message),
);

function showSkips(flagged, unflagged, requested) {
  showMood(flagged, unflagged, requested);
  if (!flagged) return skips.showNone("Recommendations appear here.");
  if (!unflagged) {
    const summary = "No track is marked as skipped. Mark one to compare with the same session without the flag.";
    return skips.showOne(flagged.tracks, { ...requested, title: "Recommended", summary });
  }
  skips.show(flagged.tracks, unflagged.tracks, {
    ...requested,
    titles: ["With the skips", exports.main?.reads.includes("skips") ? "Had none been skipped" : "Without the skip flags"],
    lead: "Because of the skips",
    why: (changed) => explainSkips({ ...requested, ...exports.main }, changed),
  });
}

/** Says where the track that the listener played next stands in the list. */
function showNext(flagged, { next }) {
  const place = next && flagged ? flagged.tracks.findIndex(({ track }) => track === next) : undefined;
  const found = place >= 0 ? `number ${place + 1} of this list` : `not among the first ${DEPTH}`;
  showText(find("#next"), place === undefined ? "" : `What this listener played next, ${nameOf(next)}, is ${found}.`);
}

/** Says how much of the list the model expects to be skipped, and so whether the listener is in the mood to. */
function showMood(flagged, unflagged, { dial }) {
  const keep = exports.main?.keep;
  const mood = flagged && keep ? moodOf(flagged.tracks, unflagged?.tracks, pointAt(keep, dial).skip_rate) : undefined;
  find("#mood").hidden = !mood;
  if (!mood) return;
  find("#mood").classList.toggle("skipping", mood.skipping);
  find("#mood meter").value = mood.share.toFixed(3);
  find("#mood span").textContent = mood.text;
}

function showModels(flagged, compared, requested) {
  find("#models").hidden = !compared;
  if (!compared) return;
  showText(find("#models .failure"), compared.error?.message);
  if (compared.error) return;
  models.show(flagged.tracks, compared.tracks, {
    ...requested,
    titles: modelTitles(exports),
    lead: "From the second model to the first",
    why: () => explainModels(exports.main, exports.compare),
  });
}

const trained = ({ trained_on_skips: skips }) => (skips ? "trained on skips" : "trained without skips");

/** By recipe, or by directory if both have the same recipe. */
function modelTitles({ main, compare }) {
  const key = main.recipe === compare.recipe ? "path" : "recipe";
  return [main, compare].map((one) => `${one[key]}, ${trained(one)}`);
}

/** A button for each session that the export holds; the first is shown where the address has none. */
async function offerExamples() {
  const { examples } = await ask("examples").catch(() => ({ examples: [] }));
  learn(examples.flat());
  listeners = examples.map((all, place) => {
    const plays = all.slice(0, -1).map(({ track, skipped }) => ({ track, skipped }));
    const many = (which) => plays.filter(({ skipped }) => skipped === which).length;
    const unknown = many(null) ? `, ${many(null)} not known` : "";
    const text = `Listener ${place + 1}: ${plays.length} tracks, ${many(true)} skipped${unknown}`;
    const next = all.at(-1).track;
    const start = () => {
      find("#session-status").textContent = `${text}.`;
      update({ plays, next });
    };
    const named = { "aria-label": text, "aria-pressed": "false", title: text };
    return { plays, next, button: element("button", { type: "button", ...named, onclick: start }, place + 1) };
  });
  find("#examples").hidden = !listeners.length;
  find("#examples").append(...listeners.map(({ button }) => button));
  if (listeners.length && !location.hash) listeners[0].button.click();
  else if (state.next) update({}); // its name and whose it is may be known only now
}

function readAddress() {
  const { state: described, faults } = address.read(location.hash);
  update(described);
  showText(find("#address-failure"), faults.join(" "));
}

async function showExports() {
  try {
    exports = await ask("exports");
  } catch (error) {
    find("#exports").textContent = error.message;
    return;
  }
  const described = [exports.main, exports.compare].filter(Boolean).map((one) => {
    return `${one.path}: ${one.recipe}, ${trained(one)}, ${one.rows.toLocaleString("en")} tracks × ${one.dim}`;
  });
  find("#exports").textContent = described.join("; compared with ");
  find("#report").hidden = !exports.report;
  showDial(exports.main?.keep, state.dial);
  if (exports.compare || exports.main.keep) refresh(state);
}

find("#exclude").addEventListener("change", ({ target }) => update({ exclude: target.value }));
find("#count").addEventListener("change", ({ target }) => update({ count: Number(target.value) }));
find("#clear").addEventListener("click", () => {
  update({ plays: [] });
  find("#search").focus();
});
find("#report details").addEventListener("toggle", ({ target }) => {
  if (target.open && !find("iframe", target)) target.append(element("iframe", { src: "report", title: "The run's report" }));
});
window.addEventListener("hashchange", readAddress);
find("#options").open = matchMedia("(min-width: 64rem)").matches;
readAddress();
showExports();
offerExamples();
