// Elements made from data. Text goes in as text alone: a track's id is foreign and may look like markup.

/** An element with these attributes (false and undefined leave one out) and children, which are elements or text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") made.addEventListener("click", value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

export const find = (selector, within = document) => within.querySelector(selector);

/** Shows `text` in an element, or hides the element where there is none. */
export function say(target, text) {
  target.textContent = text;
  target.hidden = !text;
}
