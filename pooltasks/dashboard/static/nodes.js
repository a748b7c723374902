// Nodes, and under each its workers and their operations.

import { byId, cells, element, fillCells, keyed, setData, setText } from "./dom.js";
import { UNKNOWN, bytes, count, duration, percent, plural } from "./format.js";

const STATES = {
  live: "live",
  draining: "draining",
  drained: "drained",
  lost: "lost",
  mute: "does not answer",
  stale: "silent",
};

const DRAINING = ["draining", "drained"];

const workerRow = cells([
  "pt-pid", "pt-state", "pt-name", "num pt-for", "num pt-cpu", "num pt-memory", "num pt-done",
  "num pt-age", "pt-check",
]);

// nodes: as the server sends them; null: nothing is known of them.
// onDrain(node): the button of a node was pressed.
export function fillNodes(nodes, onDrain) {
  const table = byId("nodes");
  keyed(table, [...table.tBodies], nodes ?? [], {
    key: (node) => node.name,
    make: () => makeNode(onDrain),
    fill: fillNode,
  });
  setText(byId("no-nodes"), nodes ? "No node serves this pool." : "Not known at the moment.");
  byId("no-nodes").hidden = nodes?.length > 0;
}

function makeNode(onDrain) {
  const button = element("button", { class: "btn btn-sm btn-outline-secondary", type: "button" });
  const body = element(
    "tbody",
    {},
    element(
      "tr",
      { class: "pt-node" },
      element("th", { scope: "rowgroup" }),
      element("td", { class: "pt-state" }),
      element("td", { colspan: 2, class: "pt-note pt-summary" }),
      element("td", { class: "num pt-cpu" }),
      element("td", { class: "num pt-memory" }),
      element("td", { colspan: 2, class: "num pt-note pt-restarts" }),
      element("td", { class: "num pt-drain" }, button),
    ),
  );
  button.addEventListener("click", () => onDrain(body.node));
  return body;
}

function fillNode(body, node) {
  body.node = node;
  const [head] = body.rows;
  setData(head, "state", node.state);
  setText(head.cells[0], node.celery_name);
  head.cells[0].title = node.celery_name;
  const stale = ["stale", "lost"].includes(node.state);
  setText(head.cells[1], STATES[node.state]);
  setText(head.cells[2],
    stale ? `has not answered for ${duration(Math.floor(node.silent))}` : summary(node));
  head.cells[2].title = head.cells[2].textContent;
  setText(head.cells[3], stale ? UNKNOWN : percent(node.cpu));
  setText(head.cells[4], stale ? UNKNOWN : bytes(node.memory));
  setText(head.cells[5], plural(node.restarts, "restart"));
  setData(head.cells[5], "late", String(node.restarts > 0));
  const [button] = head.cells[6].children;
  setText(button, DRAINING.includes(node.state) ? "Take work…" : "Drain…");
  button.disabled = node.workers === null || byId("nodes").dataset.locked === "true";
  button.setAttribute("aria-label", `${button.textContent} ${node.celery_name}`);
  keyed(body, [...body.rows].slice(1), node.workers ?? [], {
    key: (worker) => worker.pid,
    make: workerRow,
    fill: fillWorker,
  });
}

function summary(node) {
  return [
    ...(node.version ? [`version ${node.version}`] : []),
    `${count(node.warm)}/${count(node.size)} warm`,
    `${count(node.busy)} busy`,
    `${percent(node.utilization)} used`,
    `${count(node.reserved)} reserved`,
  ].join(" · ");
}

function check(health) {
  if (!health) return UNKNOWN;
  const problems = Object.keys(health.problems);
  const ago = `${duration(Math.floor(health.age))} ago`;
  return problems.length ? `${problems.join(", ")} (${ago})` : `well, ${ago}`;
}

function fillWorker(row, worker) {
  let { state } = worker;
  if (state === "warm") state = worker.busy ? "busy" : "idle";
  if (worker.outgoing) state = "outgoing";
  setData(row, "state", state);
  fillCells(row, [
    String(worker.pid),
    state,
    worker.running > 1 ? `${worker.operation} + ${count(worker.running - 1)}` : worker.operation ?? "",
    worker.operation === null ? "" : duration(worker.seconds),
    percent(worker.cpu_share),
    bytes(worker.memory),
    count(worker.operations),
    duration(Math.floor(worker.age)),
    check(worker.health),
  ]);
  setData(row, "ill", String(Boolean(worker.health?.failures)));
  row.cells[8].title = row.cells[8].textContent;
  row.cells[2].title = worker.operation ? `${worker.operation} ${worker.id}` : "";
}
