// The page's elements. Text is always set as text, so nothing in it is markup.

export const byId = (id) => document.getElementById(id);

// element("td", { class: "num", title: … }, "text", child, …)
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      made.setAttribute(name, value);
    }
  }
  made.append(...children);
  return made;
}

// Change the text only where it differs: an unchanged element is not laid out again.
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function setData(target, name, value) {
  if (target.dataset[name] !== value) target.dataset[name] = value;
}

// Show a sentence and its level. A screen reader reads it when the level changes, not whenever
// a number in it does.
export function announce(place, level, text) {
  if (place.dataset.level !== level) setText(byId("announced"), text);
  setData(place, "level", level);
  setText(place, text);
}

// Make the children of `parent` that are in `present` those of `items`, in their
// order. A child that was there keeps its element, and with it focus and selection.
//
//   key(item)          what makes a child the same one
//   make(item)         a new child
//   fill(child, item)  put the item's values into its child
export function keyed(parent, present, items, { key, make, fill }) {
  const known = new Map(present.map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const name = String(key(item));
    const child = known.get(name) ?? make(item);
    known.delete(name);
    child.dataset.key = name;
    return child;
  });
  let place = present[0] ?? null;
  wanted.forEach((child, number) => {
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    fill(child, items[number]);
  });
  for (const child of known.values()) child.remove();
}

// The same for a parent that has no other children.
export function rows(parent, items, how) {
  keyed(parent, [...parent.children], items, how);
}

// A row of plain cells: texts[i] goes into cell i.
export function cells(classes) {
  return () => element("tr", {}, ...classes.map((name) => element("td", { class: name })));
}

export function fillCells(row, texts) {
  texts.forEach((text, place) => setText(row.children[place], text));
}
