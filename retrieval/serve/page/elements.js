// Elements made from data. Text is inserted as text only: a track id is foreign and may look like markup.

/** An element with these attributes (false and undefined omit one) and children, which are elements or text. */
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

/** Shows `text` in an element, or hides the element if there is none. */
export function showText(target, text) {
  target.textContent = text;
  target.hidden = !text;
}
