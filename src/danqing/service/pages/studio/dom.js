/* Elements of the page, and what this browser remembers. */

export const $ = (id) => document.getElementById(id);

/* An element: attributes that are functions listen to the event of their name; false, null and "" children are left out. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(attribute, value);
    else if (value !== false && value != null) node.setAttribute(attribute, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false && child !== ""));
  return node;
}

export function show(place, message) {
  place.textContent = message;
  place.hidden = !message;
}

/* Values by name in local storage, as JSON; a private window forgets them. */
export function remembered(name, normal = null) {
  try {
    return JSON.parse(localStorage.getItem(`danqing-${name}`)) ?? normal;
  } catch {
    return normal;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`danqing-${name}`, JSON.stringify(value));
  } catch { /* a private window, or no room is left */ }
}
