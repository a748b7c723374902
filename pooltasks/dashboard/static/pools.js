// The page of all pools.

import { announce, byId, element, rows, setData, setText } from "./dom.js";
import {
  UNKNOWN, count, duration, noServer, percent, plural, promise, quantile, rate,
} from "./format.js";
import { read, write } from "./address.js";
import { startFeed } from "./refresh.js";
import { asShown, watchPointing } from "./sorting.js";
import { drawSpark } from "./spark.js";

const start = JSON.parse(byId("start").textContent);
const table = byId("pools");
const body = table.tBodies[0];
const LABELS = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.short ?? cell.textContent);

// The texts of the cells after the pool and its health; `false` is the line's place.
const TEXTS = [
  (pool) => percent(pool.utilization),
  (pool) => `${quantile(pool.objective)} ${duration(pool.wait)} / ${duration(pool.objective.wait)}`,
  (pool) => rate(pool.throughput),
  false,
  (pool) => percent(pool.error_rate),
  (pool) => count(pool.backlog),
  (pool) => duration(pool.oldest_age),
  (pool) => `${count(pool.warm)} / ${count(pool.size)} → ${count(pool.target)}`,
  ({ nodes }) =>
    NODE_STATES.filter((state) => nodes[state])
      .map((state) => (state === "live" ? String(nodes[state]) : `${nodes[state]} ${state}`))
      .join(" + ") || "0",
  (pool) => count(pool.dead_letters),
];
const NODE_STATES = ["live", "draining", "drained", "lost", "unreadable"];
const FIRST = 2;
const WAIT = 3;
const ERRORS = 6;
const OLDEST = 8;
const WARM = 9;
const NODES = 10;
const DEAD = 11;
// The number that a word of the verdict blames.
const BLAMED = { wait: WAIT, errors: ERRORS, oldest: OLDEST, warm: WARM, nodes: NODES, dead: DEAD };
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
      element(
        "td",
        { class: text ? "num" : "pt-spark", "data-label": LABELS[FIRST + place] },
        ...(FIRST + place === DEAD ? [element("a", {})] : []),
      ),
    ),
  );
}

function fillRow(row, pool) {
  const [head, badge] = [row.children[0], row.children[1].firstChild];
  setData(head.lastChild, "level", pool.verdict.level);
  setText(head.lastChild, pool.verdict.text);
  head.lastChild.title = [pool.verdict.text, pool.verdict.remedy, ...pool.verdict.more].filter(Boolean).join("\n");
  setText(badge, pool.health ? String(Math.round(pool.health.score)) : UNKNOWN);
  setData(badge, "level", pool.health?.level ?? "unknown");
  TEXTS.forEach((text, place) => {
    const cell = row.children[FIRST + place];
    if (text) setText(cell.firstElementChild ?? cell, text(pool));
    else drawSpark(cell, pool.spark);
  });
  setData(row, "own", String(pool.own));
  for (const [name, place] of Object.entries(BLAMED)) {
    setData(row.children[place], "late", String(pool.verdict.blamed.includes(name)));
  }
  row.children[WAIT].title = promise(pool.objective);
  row.children[DEAD].firstChild.href = `${start.root}/${pool.pool}#dead-title`;
}

function show(answer) {
  if (!answer.server.reachable) {
    unknown(noServer(answer.server));
    return;
  }
  latest = answer;
  fillTable();
  // pooltasks' own pool is not the user's to look after, unless nothing runs in it.
  const judged = answer.pools.filter((pool) => !pool.own || pool.verdict.level === "bad");
  const all = plural(answer.pools.filter((pool) => !pool.own).length, "pool");
  const ill = ["bad", "fair"].map((level) =>
    judged.filter((pool) => pool.verdict.level === level).map((pool) => pool.pool),
  );
  const [bad, fair] = ill;
  if (bad.length + fair.length === 0) say("good", `${all}: all well.`);
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
  setText(byId("no-pools"), `No pool has a name with “${filter.value}”.`);
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
      if (TEXTS[place]) setText(cell.firstElementChild ?? cell, UNKNOWN);
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
