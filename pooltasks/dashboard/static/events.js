// Recent events and actions in words, the latest first.

import { byId, cells, fillCells, rows, setData, setText } from "./dom.js";
import { clock, count, moment, span } from "./format.js";

const DAY = 86400;

const LEVELS = {
  "node-silent": "bad",
  "workers-replaced": "fair",
  "operations-lost": "fair",
};

const eventRow = cells(["pt-time", "", "pt-name"]);

function ofNode(event) {
  return {
    at: event.at,
    key: `${event.kind} ${event.node}`,
    level: LEVELS[event.kind] ?? "info",
    text: event.text,
    who: event.node.split("/")[0],
  };
}

function ofOperator(action) {
  return {
    at: action.at,
    key: `${action.action} ${action.user}`,
    level: action.succeeded ? "action" : "fair",
    text: `${action.action}: ${action.outcome}`,
    who: action.user,
  };
}

function ofOptimizer(decision) {
  return {
    at: decision.at,
    key: "decision",
    level: "info",
    text: `${decision.acting ? "Size" : "Paused, would set size"} ${count(decision.from)} → ` +
      `${count(decision.to)}: ${decision.reason}`,
    who: "optimizer",
  };
}

// The events in the window of an answer, and the actions of operators, however long ago.
export function fillEvents({ at, window, events, audit, decisions }) {
  const all = [
    ...events.map(ofNode),
    ...decisions.map(ofOptimizer),
    ...audit.map(ofOperator),
  ].sort((one, other) => other.at - one.at);
  rows(byId("events").tBodies[0], all, {
    key: (event) => `${event.at} ${event.key}`,
    make: eventRow,
    fill: (line, event) => {
      setData(line, "level", event.level);
      fillCells(line, [at - event.at < DAY ? clock(event.at) : moment(event.at), event.text, event.who]);
    },
  });
  setText(byId("no-events"), `Nothing happened in the last ${span(window)}.`);
  byId("no-events").hidden = all.length > 0;
}
