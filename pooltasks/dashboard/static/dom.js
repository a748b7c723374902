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

// Change the text only where it differs: nothing is laid out again for nothing.
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function setData(target, name, value) {
  if (target.dataset[name] !== value) target.dataset[name] = value;
}

// Make the rows of a table body those of `items`, in their order; a row that
// was there keeps its element, and with it the focus and the selection.
//
//   key(item)        what makes a row the same one
//   make(item)       a new row
//   fill(row, item)  put the item's values into its row
export function rows(body, items, { key, make, fill }) {
  const present = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const wanted = items.map((item) => {
    const name = String(key(item));
    let row = present.get(name);
    if (row === undefined) {
      row = make(item);
      row.dataset.key = name;
    }
    present.delete(name);
    fill(row, item);
    return row;
  });
  for (const row of present.values()) row.remove();
  wanted.forEach((row, place) => {
    if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null);
  });
}

// A row of plain cells: texts[i] goes into cell i.
export function cells(classes) {
  return () => element("tr", {}, ...classes.map((name) => element("td", { class: name })));
}

export function fillCells(row, texts) {
  texts.forEach((text, place) => setText(row.children[place], text));
}
