// The keys that use their limits most: what runs, and what limits hold back.

import { byId, cells, fillCells, rows, setData } from "./dom.js";
import { count, duration } from "./format.js";

const limitRow = cells(["pt-name", "pt-name", "num", "num", "num", "pt-reason"]);
const LABELS = [null, null, "running", "held", "for", null];

function words({ limit, is_changed: isChanged }) {
  const parts = [];
  if (limit.concurrency !== null) parts.push(`${count(limit.concurrency)} at once`);
  if (limit.rate !== null) {
    parts.push(`${Number(limit.rate.toPrecision(4))} a second, ${count(limit.burst)} of them at once`);
  }
  return `${parts.join("; ") || "no limit"}${isChanged ? " (changed)" : ""}`;
}

// limits: of the server, that with most held back first; null if nothing is known. A pool without
// limits has no such table.
export function fillLimits(limits) {
  const shown = limits ?? [];
  byId("limits-panel").hidden = shown.length === 0;
  rows(byId("limits").tBodies[0], shown, {
    key: ({ operation, key }) => `${operation}/${key}`,
    make: (its) => {
      const row = limitRow();
      LABELS.forEach((label, place) => label && setData(row.cells[place], "label", label));
      row.cells[0].title = its.operation;
      row.cells[1].title = its.key;
      return row;
    },
    fill: (row, its) => {
      const key = its.key || "all calls";
      const numbers = [count(its.running), count(its.held), its.held ? duration(its.age) : ""];
      fillCells(row, [its.operation, key, ...numbers, words(its)]);
    },
  });
}
