// The cards and the details: the pool's numbers, as Pool.metrics() gives them.

import { byId, element, rows, setData, setText } from "./dom.js";
import {
  UNKNOWN, bytes, cores, count, duration, percent, plural, promise, rate, span,
} from "./format.js";
import { CATEGORIES } from "./charts.js";

const STALE_DECISION = 10; // seconds
const QUANTILES = ["p50", "p90", "p99", "p999"];

export function fillCards({ work, load, late, objective, window, optimizer, nodes }) {
  setText(byId("utilization"), percent(work?.utilization));
  const needle = byId("utilization-gauge");
  needle.style.width = `${(work?.utilization ?? 0) * 100}%`;
  setText(byId("throughput"), rate(work?.throughput));
  const finished = sum(work?.operations, ["success", "failure", "ignored", "rejected"]);
  setText(byId("finished"), finished === null ? UNKNOWN
    : `${plural(finished, "operation")} finished in the last ${span(window)}`);
  setText(byId("wait"), duration(work?.wait?.p99));
  setData(byId("wait"), "late", String(Boolean(late)));
  setText(byId("objective"), objective ? promise(objective) : "");
  for (const line of byId("quantiles").children) {
    const its = work?.[line.dataset.of];
    QUANTILES.forEach((name, place) => setText(line.children[place + 1], duration(its?.[name])));
  }
  setText(byId("error-rate"), percent(work?.error_rate));
  fillErrors(work, finished);
  fillFacts(load, optimizer?.target, objective);
  fillOptimizer(optimizer, nodes);
}

function fillErrors(work, finished) {
  const place = byId("failures");
  if (!work?.operations) {
    setText(place, UNKNOWN);
    return;
  }
  const failed = work.operations.failure;
  const text = `${count(failed)} of ${count(finished)} failed`;
  const its = Object.keys(CATEGORIES).filter((name) => work.errors[name] > 0);
  const shown = JSON.stringify([text, its.map((name) => work.errors[name])]);
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  place.replaceChildren(
    element("span", { class: "pt-category" }, text),
    ...its.map((name) =>
      element(
        "span",
        { class: "pt-category" },
        element("span", {
          class: "pt-blot",
          style: `background: var(--pt-${CATEGORIES[name]})`,
        }),
        `${name.replace("_", " ")} ${count(work.errors[name])}`,
      ),
    ),
  );
}

const FACTS = [
  ["Size → target", (load, target) => `${count(load?.size)} → ${count(target)}`],
  ["Active", (load) => count(load?.busy)],
  ["Idle", (load) => count(load?.idle)],
  ["Warming", (load) => count(load?.warming)],
  ["Spares", (load) => count(load?.spares)],
  ["Overflow", (load) => count(load?.overflow)],
  ["Slots busy / all", (load) => `${count(load?.running)} / ${count(load?.capacity)}`],
  ["Queue depth", (load) => count(load?.queue_depth)],
  ["Backlog", (load) => count(load?.backlog)],
  ["Oldest", (load) => duration(load?.oldest_age),
    (load, objective) => load.oldest_age > objective.wait],
  ["CPU", (load) => cores(load?.cpu)],
  ["Memory", (load) => bytes(load?.memory)],
];

function fillFacts(load, target, objective) {
  rows(byId("facts"), FACTS, {
    key: ([name]) => name,
    make: ([name]) => element("div", {}, element("dt", {}, name), element("dd")),
    fill: (tile, [, text, late]) => {
      setText(tile.lastChild, text(load, target));
      setData(tile.lastChild, "late", String(Boolean(load && late?.(load, objective))));
    },
  });
}

function fillOptimizer(optimizer, nodes) {
  const place = byId("optimizer");
  setData(place, "paused", String(Boolean(optimizer?.paused)));
  if (!optimizer) setText(place, UNKNOWN);
  else if (optimizer.paused) {
    setText(place, `The optimizer only watches, for ${duration(Math.ceil(optimizer.paused))} more`);
  } else if (optimizer.reason !== null && optimizer.age <= STALE_DECISION) {
    setText(place, optimizer.reason);
  } else if (!optimizer.enabled) setText(place, "The optimizer is off (enable_optimizer)");
  else if (nodes.length === 0) setText(place, "There is nothing to decide without a node");
  else setText(place, "No optimizer decides: does beat run, and a control node?");
  place.title = place.textContent;
}

const COSTS = {
  workers: "workers not warm",
  errors: "failures",
  waiting: "late operations",
  recoveries: "workers that died",
};

export function fillHealth(health) {
  const score = byId("health");
  setText(score, health ? String(Math.round(health.score)) : UNKNOWN);
  setData(score, "level", health?.level ?? "unknown");
  rows(byId("costs"), Object.entries(COSTS), {
    key: ([name]) => name,
    make: ([, text]) => element("li", {}, element("span", { class: "num" }), ` ${text}`),
    fill: (line, [name]) => {
      const cost = health?.costs[name];
      setText(line.firstChild, cost === undefined ? UNKNOWN : cost ? `−${cost}` : "0");
      setData(line, "costs", String(Boolean(cost)));
    },
  });
}

function sum(counts, names) {
  return counts ? names.reduce((total, name) => total + counts[name], 0) : null;
}
