// The dial: a slider over the settings that were measured when the export was made, and what each of them costs.
import { element, find, showText } from "./elements.js";

const FIGURES = [
  ["hr_at_10", "HR@10"],
  ["kept_hr_at_10", "HR@10 of kept tracks"],
  ["skipped_hr_at_10", "HR@10 of skipped tracks"],
  ["pairs_in_order", "Kept above skipped, in pairs"],
  ["skip_rate", "Expected to be skipped, of ten"],
];

/** A function that shows an export's `keep` and a setting; `change(setting)` is called when the slider moves. */
export function setUpDial(change) {
  const slider = find("#dial");
  let settings = [];
  slider.addEventListener("input", () => change(settings[slider.value]));

  return function show(keep, dial) {
    find("#dial-option").hidden = !keep;
    showText(find("#dial-missing"), keep === null && dial ? `This export has no keep head, so dial=${dial} does nothing.` : "");
    if (!keep) return;
    settings = keep.curve.map((point) => point.dial);
    slider.max = settings.length - 1;
    slider.value = settings.indexOf(pointAt(keep, dial).dial);
    slider.setAttribute("aria-valuetext", dial || "off");
    find("#dial-value").value = dial || "off";
    showCost(keep, dial);
  };
}

/** The measured point of a setting: that of the highest setting which is not above it. */
export const pointAt = (keep, dial) => keep.curve.findLast((point) => point.dial <= dial);

function showCost(keep, dial) {
  const [off, now] = [keep.curve[0], pointAt(keep, dial)];
  const columns = now === off ? [off] : [off, now];
  const heads = ["Measured", "off", ...(now === off ? [] : [now.dial, "change"])];
  const known = FIGURES.filter(([name]) => columns.every((point) => point[name] !== null));
  const rows = known.map(([name, text]) => {
    const cells = columns.map((point) => element("td", {}, point[name].toFixed(3)));
    if (now !== off) cells.push(element("td", {}, signed(now[name] - off[name])));
    return element("tr", {}, element("th", { scope: "row" }, text), ...cells);
  });
  const nearest = now.dial === dial ? "" : ` ${dial} itself was not measured.`;
  const targets = `Measured on ${keep.targets.toLocaleString("en")} ${keep.split} targets.`;
  find("#dial-cost").replaceChildren(
    element("caption", {}, `${targets} The setting auto is ${keep.dial || "off"}.${nearest}`),
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows),
  );
}

function signed(value) {
  const size = Math.abs(value).toFixed(3);
  return Number(size) ? `${value < 0 ? "−" : "+"}${size}` : size;
}
