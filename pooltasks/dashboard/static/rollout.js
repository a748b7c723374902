// A new version that is brought out: how much it has, and how it does beside the one before.

import { byId, cells, element, fillCells, rows, setData, setText } from "./dom.js";
import { clock, count, duration, percent } from "./format.js";

const LABELS = [null, "nodes", "warm", "operations", "failed", "run p99", "workers died"];
const sideRow = cells(["pt-name", "num", "num", "num", "num", "num", "num"]);

// rollout: of the server; null if there is none, or nothing is known.
export function fillRollout(rollout) {
  const section = byId("rollout");
  section.hidden = !rollout;
  if (!rollout) return;
  setData(section, "state", rollout.state);
  setText(byId("rollout-says"), rollout.sentence);
  // What goes on can be led; what has ended can be forgotten.
  for (const button of byId("rollout-actions").children) {
    button.hidden = (button.dataset.action === "rolloutForget") === (rollout.state === "live");
  }
  setText(byId("rollout-promote"), rollout.share === 100 ? "Finish…" : "Next step…");
  setText(byId("rollout-pause"), rollout.paused ? "Go on…" : "Pause…");
  const bar = byId("rollout-share");
  bar.value = rollout.state === "aborted" ? 0 : rollout.share;
  setText(bar, `${rollout.share} %`);
  rows(byId("rollout-sides").tBodies[0], rollout.sides, {
    key: ({ version }) => version,
    make: () => {
      const row = sideRow();
      LABELS.forEach((label, place) => label && setData(row.cells[place], "label", label));
      return row;
    },
    fill: (row, side) => {
      fillCells(row, [
        side.version || "(none)",
        count(side.nodes),
        count(side.warm),
        count(side.finished),
        percent(side.error_rate),
        duration(side.run_p99),
        count(side.recoveries),
      ]);
      row.title = side.takes ? "" : "Its nodes take no operations: stop them";
    },
  });
  byId("rollout-steps").replaceChildren(
    ...rollout.steps.map(({ at, share, reason }) =>
      element("li", {}, `${clock(at)} · ${share} % · ${reason}`),
    ),
  );
}
