// The page of one pool.

import { announce, byId, element, setText } from "./dom.js";
import { noServer } from "./format.js";
import { read, write } from "./address.js";
import { startFeed } from "./refresh.js";
import { Series } from "./series.js";
import { Chart } from "./plots.js";
import { SPECS } from "./charts.js";
import { fillCards, fillHealth } from "./cards.js";
import { fillNodes } from "./nodes.js";
import { Operations } from "./operations.js";
import { fillEvents } from "./events.js";
import { fillLimits } from "./limits.js";
import { Actions } from "./actions.js";
import { Letters } from "./letters.js";
import { Errors } from "./errors.js";
import { fillRollout } from "./rollout.js";

const start = JSON.parse(byId("start").textContent);
const windows = start.windows.map(String);
const series = new Series();
const charts = [...document.querySelectorAll("[data-chart]")].map(
  (figure) => new Chart(figure, SPECS[figure.dataset.chart]),
);
const actions = new Actions(start, () => feed.restart());
const letters = new Letters(start, actions);
const errors = new Errors(start, letters);
const operations = new Operations();
let seconds = Number(read("window", windows, String(start.window)));

function show(answer) {
  if (!answer.server.reachable) {
    unknown("bad", noServer(answer.server));
    return;
  }
  if (answer.window !== seconds) return; // asked before the window was changed
  series.take(answer, seconds);
  const context = {
    series,
    window: seconds,
    objective: answer.objective,
    band: answer.band,
    decisions: answer.decisions,
    failed: answer.failed,
  };
  for (const chart of charts) chart.update(context);
  fillCards(answer);
  fillHealth(answer.health);
  operations.update(answer);
  fillNodes(answer.nodes, (node) => actions.drain(node));
  fillEvents(answer);
  actions.take(answer);
  letters.update(answer.dead_letters);
  errors.update(answer.errors);
  fillLimits(answer.limits);
  fillRollout(answer.rollout);
  say(answer.verdict.level, answer.verdict.text, [answer.verdict.remedy, ...answer.verdict.more]);
}

// Nothing is known of the present: the numbers go, the charts keep the past.
function unknown(level, text) {
  fillCards({ window: seconds });
  fillHealth(null);
  operations.unknown();
  fillNodes(null);
  letters.update(null);
  errors.update(null);
  fillLimits(null);
  fillRollout(null);
  say(level, text);
}

function say(level, text, remedies = []) {
  announce(byId("status"), level, text);
  // One line, so that nothing moves; all of them on hover.
  setText(byId("remedy"), remedies[0] ?? "");
  byId("remedy").title = remedies.filter(Boolean).join("\n");
}

function choosePool() {
  const select = byId("pool");
  select.replaceChildren(
    ...start.pools.map((name) => element("option", { selected: name === start.pool }, name)),
  );
  if (!start.pools.includes(start.pool)) {
    select.prepend(element("option", { selected: true }, start.pool));
  }
  select.addEventListener("change", () => {
    location.assign(`${start.root}/${encodeURIComponent(select.value)}${location.search}`);
  });
}

function markWindow() {
  for (const button of byId("windows").children) {
    const chosen = Number(button.dataset.window) === seconds;
    button.classList.toggle("active", chosen);
    button.setAttribute("aria-pressed", String(chosen));
  }
}

choosePool();
markWindow();
// The names of all numbers at once: nothing moves when the first answer comes.
unknown("unknown", "Reading…");
const feed = startFeed({
  url: () => {
    const since = series.cursor === null ? "" : `&since=${series.cursor}`;
    return `${start.root}/${start.pool}/data?window=${seconds}${since}`;
  },
  first: () => series.cursor === null,
  onAnswer: show,
  onState: (state, text) => {
    if (text) unknown("bad", text);
  },
});
byId("windows").addEventListener("click", (event) => {
  const chosen = event.target.dataset.window;
  if (!chosen) return;
  seconds = Number(chosen);
  write("window", chosen, String(start.window));
  markWindow();
  series.clear();
  say("unknown", "Reading…");
  feed.restart();
});
