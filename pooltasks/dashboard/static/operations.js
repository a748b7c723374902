// The work of each operation in the window, as Pool.metrics().by_operation has it.

import { byId, cells, fillCells, rows, setData, setText } from "./dom.js";
import { count, duration, percent, span } from "./format.js";
import { Sorting, asShown, watchPointing } from "./sorting.js";

const OTHER = "other";

const VALUES = {
  name: (its) => its.name,
  count: (its) => its.count,
  failed: (its) => its.failed,
  dead: (its) => its.dead,
  errors: (its) => its.error_rate,
  wait50: (its) => its.wait?.p50 ?? null,
  wait99: (its) => its.wait?.p99 ?? null,
  run50: (its) => its.run?.p50 ?? null,
  run99: (its) => its.run?.p99 ?? null,
  share: (its) => its.share,
};
const TEXTS = {
  name: (name) => (name === OTHER ? "all others" : name),
  count,
  failed: count,
  dead: count,
  errors: percent,
  wait50: duration,
  wait99: duration,
  run50: duration,
  run99: duration,
  share: percent,
};
const NAMES = Object.keys(VALUES);
const FAILED = NAMES.indexOf("failed");
const MANY_FAILURES = 0.01; // from here on the verdict blames them

const operationRow = cells(NAMES.map((name) => (name === "name" ? "pt-name" : "num")));
const byName = (one, other) => (one.name < other.name ? -1 : 1);

export class Operations {
  constructor() {
    this.table = byId("operations");
    [this.body] = this.table.tBodies;
    this.labels = [...this.table.tHead.rows[0].cells].map(
      (cell) => cell.dataset.short ?? cell.textContent,
    );
    this.latest = null;
    this.isPointedAt = watchPointing(this.body);
    this.sorting = new Sorting(this.table, {
      name: "sort",
      usual: "-count",
      changed: () => this.latest && this.show(this.sort(this.latest.operations)),
    });
  }

  sort(operations) {
    return this.sorting.sorted(operations, VALUES, byName);
  }

  // answer: of the server; operations is null while they are being read.
  update(answer) {
    const { operations } = answer;
    const nothing = byId("no-operations");
    if (!operations) {
      this.unknown(answer.work.operations ? "Reading…" : undefined);
      return;
    }
    this.latest = answer;
    const key = ({ name }) => name;
    this.show(
      this.isPointedAt() ? asShown(operations, this.body, key) : this.sort(operations),
    );
    setText(nothing, `No operation ran in the last ${span(answer.window)}.`);
    nothing.hidden = operations.length > 0;
  }

  // Nothing is known of the present.
  unknown(text = "Not known at the moment.") {
    this.latest = null;
    this.body.replaceChildren();
    setText(byId("no-operations"), text);
    byId("no-operations").hidden = false;
  }

  show(operations) {
    rows(this.body, operations, {
      key: ({ name }) => name,
      make: () => {
        const row = operationRow();
        NAMES.forEach((_, place) => setData(row.cells[place], "label", this.labels[place]));
        return row;
      },
      fill: (row, its) => {
        fillCells(row, NAMES.map((name) => TEXTS[name](VALUES[name](its))));
        row.cells[0].title = its.name;
        const fails = String(its.error_rate >= MANY_FAILURES);
        setData(row.cells[FAILED], "late", fails);
        setData(row.cells[FAILED + 1], "late", String(its.dead > 0));
        setData(row.cells[FAILED + 2], "late", fails);
      },
    });
  }
}
