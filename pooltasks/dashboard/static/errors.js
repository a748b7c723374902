// The errors of a pool: those of one kind together, with one of them in full.

import { byId, cells, element, fillCells, rows, setData, setText } from "./dom.js";
import { count, duration, moment, plural } from "./format.js";
import { fetchJson } from "./feed.js";
import { confirm } from "./dialog.js";

const errorRow = cells(["num", "num", "num", "pt-time", "pt-time", "pt-name", "pt-reason"]);
const LABELS = ["failed", "retried", "now"];

const ago = (at) => `${duration(Math.max(0, Math.round(Date.now() / 1000 - at)))} ago`;
const said = ({ error, message }) => (message ? `${error}: ${message}` : error);

function part(title, text) {
  return [
    element("h3", {}, title),
    element("pre", { tabindex: 0, "aria-label": title }, text),
  ];
}

function example(its) {
  if (its === null) return [element("p", {}, "Of this one no example is kept.")];
  const who = its.worker === null ? `told by ${its.node}` : `worker ${its.worker} of ${its.node}`;
  const attempts = its.attempts.map(({ at, error }) => `${moment(at)}  ${error}`).join("\n");
  return [
    element("p", { class: "pt-note" },
      `${its.id ?? "unknown"} · ${moment(its.at)} · attempt ${its.attempt} · ${who}`),
    ...part("Arguments", its.arguments ?? "They are not known."),
    ...part("Traceback", its.traceback ?? "There is none."),
    ...(attempts ? part("Earlier attempts", attempts) : []),
  ];
}

export class Errors {
  // start: what the page began with. letters: the dead letters of the page.
  constructor(start, letters) {
    this.url = `${start.root}/${start.pool}/error`;
    this.locked = Boolean(start.locked);
    this.letters = letters;
    [this.body] = byId("errors").tBodies;
  }

  // errors: of the server, the most frequent one of now first; null if they are not known.
  update(errors) {
    rows(this.body, errors ?? [], {
      key: ({ id }) => id,
      make: (its) => this.makeRow(its),
      fill: (row, its) => {
        const numbers = [its.failed, its.retried, its.recent].map(count);
        fillCells(row, [...numbers, ago(its.last), ago(its.first), its.operation]);
        setData(row, "now", String(its.recent > 0 && its.category !== "client"));
      },
    });
    this.say(errors === null ? "Not known at the moment." : "No operation failed in seven days.");
    byId("no-errors").hidden = (errors ?? []).length > 0;
  }

  say(text) {
    setText(byId("no-errors"), text);
  }

  makeRow(its) {
    const row = errorRow();
    LABELS.forEach((label, place) => setData(row.cells[place], "label", label));
    row.cells[3].title = moment(its.last);
    row.cells[4].title = moment(its.first);
    row.cells[5].title = its.operation;
    row.cells[6].append(
      element(
        "button",
        { class: "pt-link", type: "button", title: said(its), onclick: () => this.show(its) },
        said(its),
      ),
      element("span", { class: "pt-place", title: its.place }, its.place),
    );
    return row;
  }

  async show({ id }) {
    let its;
    try {
      its = await fetchJson(`${this.url}?id=${encodeURIComponent(id)}`);
    } catch (error) {
      this.say(error.message);
      byId("no-errors").hidden = false;
      return;
    }
    const { letters } = its;
    const sums = `${plural(its.failed, "operation")} failed with it, ${plural(its.retried, "attempt")} ${its.retried === 1 ? "was" : "were"} retried; first ${moment(its.first)}, last ${moment(its.last)}`;
    const dead = letters.length
      ? `${plural(letters.length, "of them is a dead letter", "of them are dead letters")}.`
      : "None of them is a dead letter.";
    const buttons = ["retry", "drop"].map((name) =>
      element("button", {
        class: "btn btn-sm btn-outline-secondary me-2",
        type: "button",
        disabled: this.locked,
        onclick: () => {
          byId("dialog").close();
          this.letters.ask(name, letters);
        },
      }, name === "retry" ? "Retry these…" : "Delete these…"));
    await confirm({
      title: `${its.operation}: ${said(its)}`,
      body: [
        element("p", { class: "pt-note" }, its.place),
        element("p", {}, `${sums}. ${dead}`),
        ...(letters.length ? [element("p", {}, ...buttons)] : []),
        ...example(its.example),
      ],
      cancel: "Close",
    });
  }
}
