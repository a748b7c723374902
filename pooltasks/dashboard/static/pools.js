// The page of all pools.

import { announce, byId, element, rows, setData, setText } from "./dom.js";
import { UNKNOWN, clock, count, duration, percent, plural, promise, rate } from "./format.js";
import { read, write } from "./address.js";
import { startFeed } from "./refresh.js";
import { asShown, watchPointing } from "./sorting.js";
import { drawSpark } from "./spark.js";

const start = JSON.parse(byId("start").textContent);
const table = byId("pools");
const body = table.tBodies[0];
const LABELS = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.short ?? cell.textContent);

// What stands in the cells after the pool and its health; `false` is the line's place.
const TEXTS = [
  (pool) => percent(pool.utilization),
  (pool) => `${duration(pool.wait_p99)} / ${duration(pool.objective.wait)}`,
  (pool) => rate(pool.throughput),
  false,
  (pool) => percent(pool.error_rate),
  (pool) => count(pool.backlog),
  (pool) => duration(pool.oldest_age),
  (pool) => count(pool.warm),
  (pool) => `${count(pool.size)} → ${count(pool.target)}`,
  ({ nodes: { live, stale, unreadable } }) =>
    [live, stale && `${stale} silent`, unreadable && `${unreadable} unreadable`]
      .filter((part, place) => part || !place)
      .join(" + "),
  (pool) => count(pool.dead_letters),
];
const FIRST = 2;
const WAIT = 3;
const ERRORS = 6;
const OLDEST = 8;
const WARM = 9;
const DEAD = 12;
const key = (pool) => pool.pool;
const isPointedAt = watchPointing(body);
const filter = byId("filter");
let latest = null;
const NAMED = 3; // pools in the sentence at the top

function makeRow(pool) {
  return element(
    "tr",
    {},
    element(
      "th",
      { scope: "row" },
      element("a", { href: `${start.root}/${pool.pool}` }, pool.pool),
      element("span", { class: "pt-verdict" }),
    ),
    element("td", {}, element("span", { class: "pt-badge" })),
    ...TEXTS.map((text, place) =>
      element("td", { class: text ? "num" : "pt-spark", "data-label": LABELS[FIRST + place] }),
    ),
  );
}

function fillRow(row, pool) {
  const [head, badge] = [row.children[0], row.children[1].firstChild];
  setData(head.lastChild, "level", pool.verdict.level);
  setText(head.lastChild, pool.verdict.text);
  head.lastChild.title = pool.verdict.text;
  setText(badge, pool.health ? String(Math.round(pool.health.score)) : UNKNOWN);
  setData(badge, "level", pool.health?.level ?? "unknown");
  TEXTS.forEach((text, place) => {
    const cell = row.children[FIRST + place];
    if (text) setText(cell, text(pool));
    else drawSpark(cell, pool.spark);
  });
  setData(row.children[WAIT], "late", String(pool.late));
  row.children[WAIT].title = promise(pool.objective);
  setData(row.children[ERRORS], "late", String(Boolean(pool.health?.costs.errors)));
  setData(row.children[OLDEST], "late", String(pool.oldest_age > pool.objective.wait));
  setData(row.children[WARM], "late", String(pool.warm < pool.size));
  setData(row.children[DEAD], "late", String(pool.dead_letters > 0));
}

function show(answer) {
  if (!answer.server.reachable) {
    unknown(`The server does not answer since ${clock(answer.server.since)}.`);
    return;
  }
  latest = answer;
  fillTable();
  const all = plural(answer.pools.length, "pool");
  const ill = ["bad", "fair"].map((level) =>
    answer.pools.filter((pool) => pool.verdict.level === level).map((pool) => pool.pool),
  );
  const [bad, fair] = ill;
  if (bad.length + fair.length === 0) say("good", `${all}, all well.`);
  else {
    const who = [...bad, ...fair];
    const names = who.slice(0, NAMED).join(", ") + (who.length > NAMED ? " …" : "");
    const verb = who.length === 1 ? "needs" : "need";
    say(bad.length ? "bad" : "fair", `${who.length} of ${all} ${verb} attention: ${names}.`);
  }
}

function fillTable() {
  const wanted = filter.value.toLowerCase();
  const pools = latest.pools.filter((pool) => pool.pool.toLowerCase().includes(wanted));
  rows(body, isPointedAt() ? asShown(pools, body, key) : pools, {
    key,
    make: makeRow,
    fill: fillRow,
  });
  setText(byId("no-pools"), `No pool is called so, of ${plural(latest.pools.length, "pool")}.`);
  byId("no-pools").hidden = pools.length > 0;
}

function unknown(text) {
  latest = null;
  setText(byId("no-pools"), "Not known at the moment.");
  byId("no-pools").hidden = body.rows.length > 0;
  for (const row of body.rows) {
    const [head, badge, ...others] = row.cells;
    setText(head.lastChild, "Not known at the moment.");
    setData(head.lastChild, "level", "unknown");
    setText(badge.firstChild, UNKNOWN);
    setData(badge.firstChild, "level", "unknown");
    others.forEach((cell, place) => {
      if (TEXTS[place]) setText(cell, UNKNOWN);
      setData(cell, "late", "false");
    });
  }
  say("bad", text);
}

function say(level, text) {
  announce(byId("status"), level, text);
}

filter.value = read("pool", null, "");
filter.addEventListener("input", () => {
  write("pool", filter.value, "");
  if (latest !== null) fillTable();
});
startFeed({
  url: () => `${start.root}/-/data`,
  onAnswer: show,
  onState: (state, text) => {
    if (text) unknown(text);
  },
});
