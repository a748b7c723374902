// Tables whose headers sort them; the sorting stands in the address.

import { element, setData } from "./dom.js";
import { read, write } from "./address.js";

export class Sorting {
  // table    its headers that sort have data-sort, a name, and data-first, the direction in
  //          which they sort first: "descending" or "ascending"
  // name     of the value in the address
  // usual    as in the address: a name, with - before it for descending
  // changed() somebody wants another order
  constructor(table, { name, usual, changed }) {
    this.table = table;
    this.headers = [...table.tHead.querySelectorAll("[data-sort]")];
    const allowed = this.headers.flatMap(({ dataset: { sort } }) => [sort, `-${sort}`]);
    this.by = read(name, allowed, usual);
    for (const header of this.headers) {
      const button = element("button", { class: "pt-sort", type: "button" }, ...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const { sort, first } = header.dataset;
        const usually = first === "descending" ? `-${sort}` : sort;
        const other = first === "descending" ? sort : `-${sort}`;
        this.by = this.by === usually ? other : usually;
        write(name, this.by, usual);
        this.mark();
        changed();
      });
    }
    this.mark();
  }

  mark() {
    for (const header of this.headers) {
      const { sort } = header.dataset;
      const order = { [sort]: "ascending", [`-${sort}`]: "descending" }[this.by];
      if (order) header.setAttribute("aria-sort", order);
      else header.removeAttribute("aria-sort");
    }
  }

  // Sorted items. values: name → function that returns a number, a text, or null for what is
  // not known, which comes last; `tie` decides among equals.
  sorted(items, values, tie) {
    const descending = this.by.startsWith("-");
    const value = values[this.by.replace(/^-/, "")];
    return [...items].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === b) return tie(one, other);
      if (a === null || b === null) return a === null ? 1 : -1;
      return (a < b ? -1 : 1) * (descending ? -1 : 1);
    });
  }
}

// Whether the pointer or the focus is in a table's rows: they keep their places meanwhile.
export function watchPointing(body) {
  const place = body.closest(".pt-scroll");
  const tell = (pointed) => setData(place, "pointed", String(pointed));
  body.addEventListener("pointerenter", () => tell(true));
  body.addEventListener("pointerleave", () => tell(false));
  return () => place.dataset.pointed === "true" || body.contains(document.activeElement);
}

// Items in the order that their rows have, those without one behind them.
export function asShown(items, body, key) {
  const places = new Map([...body.rows].map((row, place) => [row.dataset.key, place]));
  const place = (item) => places.get(String(key(item))) ?? Infinity;
  return [...items].sort((one, other) => {
    const [a, b] = [place(one), place(other)];
    return a === b ? 0 : a - b;
  });
}
