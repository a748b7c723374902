// The page of all pools.

import { byId, element, rows, setData, setText } from "./dom.js";
import {
  UNKNOWN, clock, count, duration, healthLevel, percent, plural, rate,
} from "./format.js";
import { startFeed } from "./refresh.js";
import { drawSpark } from "./spark.js";

const start = JSON.parse(byId("start").textContent);
const body = byId("pools").tBodies[0];
const NUMBERS = 8;

function makeRow(pool) {
  const address = `${start.root}/${pool.pool}`;
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, element("a", { href: address }, pool.pool)),
    element("td", {}, element("span", { class: "pt-badge" })),
    element("td", { class: "num" }),
    element("td", { class: "num" }),
    element("td", { class: "num" }),
    element("td", { class: "pt-spark" }),
    ...Array.from({ length: NUMBERS - 1 }, () => element("td", { class: "num" })),
  );
}

function fillRow(row, pool) {
  const at = (place) => row.children[place];
  const badge = at(1).firstChild;
  setText(badge, pool.health ? String(Math.round(pool.health.score)) : UNKNOWN);
  setData(badge, "level", pool.health ? healthLevel(pool.health.score) : "unknown");
  at(1).title = pool.verdict.text;
  setText(at(2), percent(pool.utilization));
  setText(at(3), `${duration(pool.wait_p99)} / ${duration(pool.objective.wait)}`);
  setData(at(3), "late", String((pool.wait_p99 ?? 0) > pool.objective.wait));
  setText(at(4), rate(pool.throughput));
  drawSpark(at(5), pool.spark);
  setText(at(6), percent(pool.error_rate));
  setText(at(7), count(pool.backlog));
  setText(at(8), duration(pool.oldest_age));
  setText(at(9), `${count(pool.warm)} / ${count(pool.size)}`);
  setText(at(10), count(pool.target));
  const { live, stale } = pool.nodes;
  setText(at(11), stale ? `${live} + ${stale} silent` : String(live));
  setText(at(12), count(pool.dead_letters));
}

function show(answer) {
  if (!answer.server.reachable) {
    unknown(`The server does not answer since ${clock(answer.server.since)}.`);
    return;
  }
  rows(body, answer.pools, { key: (pool) => pool.pool, make: makeRow, fill: fillRow });
  const ill = answer.pools.filter((pool) => ["fair", "bad"].includes(pool.verdict.level));
  const [worst] = ill;
  if (worst) {
    const others = ill.length > 1 ? ` ${plural(ill.length, "pool")} need attention.` : "";
    say(worst.verdict.level, `${worst.pool}: ${worst.verdict.text}${others}`);
  } else {
    say("good", `${plural(answer.pools.length, "pool")}, all well.`);
  }
}

function unknown(text) {
  for (const row of body.rows) {
    for (const cell of [...row.cells].slice(2)) {
      if (!cell.classList.contains("pt-spark")) setText(cell, UNKNOWN);
    }
    setText(row.cells[1].firstChild, UNKNOWN);
    setData(row.cells[1].firstChild, "level", "unknown");
  }
  say("bad", text);
}

function say(level, text) {
  setData(byId("status"), "level", level);
  setText(byId("status"), text);
}

startFeed({
  url: () => `${start.root}/-/data`,
  onAnswer: show,
  onState: (state) => {
    if (state === "away") unknown("The dashboard itself does not answer.");
  },
});
