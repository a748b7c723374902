// The cards and the details: the pool's numbers, as Pool.metrics() gives them.

import { byId, element, rows, setData, setText } from "./dom.js";
import {
  UNKNOWN, bytes, cores, count, duration, percent, plural, promise, quantile, rate, span,
} from "./format.js";
import { CATEGORIES } from "./charts.js";

const QUANTILES = ["mean", "p50", "p90", "p99", "p999"];

export function fillCards(answer) {
  const { work, load, verdict, objective, window, optimizer, nodes, band } = answer;
  const blamed = (name) => String(Boolean(verdict?.blamed.includes(name)));
  setText(byId("utilization"), percent(work?.utilization));
  const needle = byId("utilization-gauge");
  needle.style.width = `${(work?.utilization ?? 0) * 100}%`;
  setData(needle.parentElement, "band", String(Boolean(band)));
  needle.parentElement.style.setProperty("--pt-low", `${(band?.low ?? 0) * 100}%`);
  needle.parentElement.style.setProperty("--pt-high", `${(band?.high ?? 0) * 100}%`);
  setText(byId("utilization-note"), band
    ? `${percent(band.low)} to ${percent(band.high)} is right for this objective and size`
    : "Share of their time in which workers are busy");
  setText(byId("throughput"), rate(work?.throughput));
  const { finished = null } = answer;
  setText(byId("finished"), finished === null ? UNKNOWN
    : `${plural(finished, "operation")} finished in the last ${span(window)}`);
  if (objective) setText(byId("latency-title"), `Wait ${quantile(objective)}`);
  setText(byId("wait"), duration(answer.wait));
  setData(byId("wait"), "late", blamed("wait"));
  setText(byId("objective"), objective ? promise(objective) : "");
  for (const line of byId("quantiles").children) {
    const its = work?.[line.dataset.of];
    QUANTILES.forEach((name, place) => setText(line.children[place + 1], duration(its?.[name])));
  }
  setText(byId("error-rate"), percent(answer.error_rate));
  setData(byId("error-rate"), "late", blamed("errors"));
  fillErrors(answer);
  fillFacts(load, optimizer?.target, blamed);
  fillOptimizer(optimizer, nodes);
}

function fillErrors({ work, failed, finished, set_aside: dead }) {
  const place = byId("failures");
  if (!work?.operations) {
    setText(place, UNKNOWN);
    return;
  }
  const text = `${count(failed)} of ${count(finished)} failed`;
  const its = Object.keys(CATEGORIES).filter((name) => work.errors[name] > 0);
  const shown = JSON.stringify([text, dead, its.map((name) => work.errors[name])]);
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  place.replaceChildren(
    element("span", { class: "pt-category" }, text),
    ...(dead
      ? [element("a", { class: "pt-category", href: "#dead-title" }, plural(dead, "dead letter"))]
      : []),
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

// Name, meaning, text, and the word of the verdict that blames it.
const FACTS = [
  ["Size → target", "Workers that there should be, and how many the optimizer wants",
    (load, target) => `${count(load?.size)} → ${count(target)}`, "warm"],
  ["Busy", "Workers that have an operation", (load) => count(load?.busy)],
  ["Idle", "Warm workers that have none", (load) => count(load?.idle)],
  ["Warming up", "Workers that are not warm yet", (load) => count(load?.warming)],
  ["Spares", "Warm workers beyond the size; one takes over when a worker dies",
    (load) => count(load?.spares)],
  ["Overflow", "Temporary workers beyond the size", (load) => count(load?.overflow)],
  ["Slots busy / all", "Operations that run, and that could run at once",
    (load) => `${count(load?.running)} / ${count(load?.capacity)}`],
  ["In the queue", "Operations that no node has reserved", (load) => count(load?.queue_depth)],
  ["Backlog", "Operations that no worker has started: in the queue, or reserved by a node",
    (load) => count(load?.backlog)],
  ["Oldest", "How long the oldest operation of the backlog has waited",
    (load) => duration(load?.oldest_age), "oldest"],
  ["CPU", "Processor time of the nodes and their workers", (load) => cores(load?.cpu)],
  ["Memory", "Of the nodes and their workers; what they share is counted once",
    (load) => bytes(load?.memory)],
];

function fillFacts(load, target, blamed) {
  rows(byId("facts"), FACTS, {
    key: ([name]) => name,
    make: ([name, meaning]) =>
      element("div", { title: meaning }, element("dt", {}, name), element("dd")),
    fill: (tile, [, , text, word]) => {
      setText(tile.lastChild, text(load, target));
      setData(tile.lastChild, "late", load && word ? blamed(word) : "false");
    },
  });
}

function fillOptimizer(optimizer, nodes) {
  const place = byId("optimizer");
  setData(place, "paused", String(Boolean(optimizer?.paused)));
  if (!optimizer) setText(place, UNKNOWN);
  else if (optimizer.paused) {
    setText(place, `The optimizer is paused for ${duration(Math.ceil(optimizer.paused))} more: the pool keeps its size`);
  } else if (optimizer.reason !== null && optimizer.decides) {
    setText(place, optimizer.reason);
  } else if (!optimizer.enabled) setText(place, "The optimizer is off (enable_optimizer)");
  else if (nodes.length === 0) setText(place, "The optimizer waits for a node to serve the pool");
  else setText(place, "No optimizer decides. Beat and the control node have to run for that");
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
