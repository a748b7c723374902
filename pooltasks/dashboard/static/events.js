// Recent events in words.

import { byId, cells, fillCells, rows, setData } from "./dom.js";
import { clock, count, plural } from "./format.js";

const WORDS = {
  "node-started": (event) => `Node started with ${plural(event.to, "worker")}`,
  "node-stopped": () => "Node stopped",
  "node-silent": () => "Node fell silent",
  "node-back": () => "Node is back",
  resized: (event) => `Size ${count(event.from)} → ${count(event.to)}`,
  "workers-replaced": (event) => `${plural(event.count, "worker")} died and replaced`,
  "operations-lost": (event) =>
    `${plural(event.count, "operation")} lost with a worker, to be run again`,
};
const LEVELS = {
  "node-silent": "bad",
  "workers-replaced": "fair",
  "operations-lost": "fair",
};

const row = cells(["pt-time", "", "pt-name"]);

export function fillEvents(events) {
  rows(byId("events").tBodies[0], events, {
    key: (event) => `${event.at} ${event.kind} ${event.node}`,
    make: row,
    fill: (line, event) => {
      setData(line, "level", LEVELS[event.kind] ?? "info");
      fillCells(line, [clock(event.at), WORDS[event.kind](event), event.node.split("/")[0]]);
    },
  });
}
