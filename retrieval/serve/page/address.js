// The state of the page to the address's hash and back, so that a link holds a whole session.

export const EXCLUDES = ["session", "kept", "skipped", "none"];
export const COUNTS = [10, 20, 50];
export const MAX_DIAL = 100;
/** For `skipped` of a play; null: it is not known. */
const WORDS = new Map([[true, "skipped"], [false, "heard"], [null, "played"]]);

/**
 * `#heard=t_1&skipped=t_2&played=t_3&next=t_4&exclude=session&show=10&dial=0`: the tracks in play order; `played`: whether
 * it was skipped is not known.
 */
export function written({ plays, next, exclude, count, dial }) {
  const parameters = new URLSearchParams(plays.map(({ track, skipped }) => [WORDS.get(skipped), track]));
  if (next) parameters.append("next", next);
  if (exclude !== "session") parameters.append("exclude", exclude);
  if (count !== 10) parameters.append("show", count);
  if (dial) parameters.append("dial", dial);
  return `#${parameters}`;
}

/** The state that a hash describes, and a sentence for each part of it that cannot be used. */
export function read(hash) {
  const state = { plays: [], next: undefined, exclude: "session", count: 10, dial: 0 };
  const faults = [];
  const choose = (key, value, allowed, convert) => {
    if (allowed(convert(value))) return convert(value);
    faults.push(`The address has ${key}=${value}, which is not an option of this page, so it was ignored.`);
    return undefined;
  };
  for (const [key, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    const marked = [...WORDS].find(([, word]) => word === key);
    if (marked) state.plays.push({ track: value, skipped: marked[0] });
    else if (key === "next") state.next = value;
    else if (key === "exclude") state.exclude = choose(key, value, (one) => EXCLUDES.includes(one), String) ?? "session";
    else if (key === "show") state.count = choose(key, value, (one) => COUNTS.includes(one), Number) ?? 10;
    else if (key === "dial") state.dial = choose(key, value, (one) => one >= 0 && one <= MAX_DIAL, Number) ?? 0;
    else choose(key, value, () => false, String);
  }
  return { state, faults };
}
