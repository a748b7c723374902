// Dead letters: found, shown, retried, deleted.

import { byId, cells, element, rows, setText } from "./dom.js";
import { count, moment, plural } from "./format.js";
import { read, write } from "./address.js";
import { fetchJson } from "./feed.js";
import { confirm } from "./dialog.js";

const TYPING_MS = 250;
const RELOAD_MS = 5000; // at most so often by itself: every list is read as a whole
const FIELDS = ["reason", "operation"];
const VERBS = {
  retry: ["Retry", "sent to the pool again, each once, without the old deadline."],
  drop: ["Delete", "gone for good, with the message."],
};

const letterRow = cells(["", "pt-time", "pt-name", "num", "pt-reason"]);

function attempts(history) {
  return history.map(({ at, error }) => `${moment(at)}  ${error}`).join("\n");
}

export class Letters {
  // start: what the page began with. actions: does the actions on letters.
  constructor(start, actions) {
    this.root = `${start.root}/${start.pool}/dead`;
    this.locked = Boolean(start.locked);
    this.actions = actions;
    this.chosen = new Set();
    this.shown = [];
    this.number = null;
    this.round = 0;
    this.again = null;
    this.loadedAt = -Infinity;
    this.body = byId("dead").tBodies[0];
    for (const name of FIELDS) byId(`dead-${name}`).value = read(name, null, "");
    let typing = null;
    byId("dead-search").addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => {
        for (const name of FIELDS) write(name, byId(`dead-${name}`).value, "");
        this.load();
      }, TYPING_MS);
    });
    byId("dead-search").addEventListener("submit", (event) => event.preventDefault());
    byId("dead-all").addEventListener("change", (event) => {
      for (const letter of this.shown) this.choose(letter.id, event.target.checked);
      this.mark();
    });
    for (const name of Object.keys(VERBS)) {
      byId(`dead-${name}`).addEventListener("click", () => this.ask(name, [...this.chosen]));
    }
  }

  // number: how many the pool has; null if that is not known.
  update(number) {
    setText(byId("dead-count"), count(number));
    if (number === null || number === this.number) return;
    this.number = number;
    const wait = this.loadedAt + RELOAD_MS - performance.now();
    this.again ??= setTimeout(() => this.load(), wait);
  }

  async load() {
    clearTimeout(this.again);
    this.again = null;
    this.loadedAt = performance.now();
    this.round += 1;
    const { round } = this;
    const query = new URLSearchParams(FIELDS.map((name) => [name, byId(`dead-${name}`).value]));
    let answer;
    try {
      answer = await fetchJson(`${this.root}?${query}`);
    } catch (error) {
      this.number = null; // again with the next answer
      this.say(error.message);
      return;
    }
    if (round !== this.round) return;
    this.shown = answer.letters;
    const present = new Set(this.shown.map((letter) => letter.id));
    for (const id of this.chosen) if (!present.has(id)) this.chosen.delete(id);
    rows(this.body, this.shown, {
      key: (letter) => letter.id,
      make: (letter) => this.makeRow(letter),
      fill: () => {},
    });
    const beyond = answer.matching - this.shown.length;
    const searched = FIELDS.some((name) => byId(`dead-${name}`).value);
    if (beyond > 0) this.say(`${plural(beyond, "older dead letter")} ${beyond === 1 ? "matches" : "match"} too. Search to see more.`);
    else if (this.shown.length > 0) this.say("");
    else this.say(searched ? "No dead letter matches the search." : "There are no dead letters.");
    this.mark();
  }

  say(text) {
    const place = byId("no-dead");
    setText(place, text);
    place.hidden = text === "";
  }

  makeRow(letter) {
    const row = letterRow();
    row.cells[0].append(
      element("input", {
        class: "form-check-input",
        type: "checkbox",
        "aria-label": `Choose ${letter.id}`,
        onchange: (event) => {
          this.choose(letter.id, event.target.checked);
          this.mark();
        },
      }),
    );
    row.cells[1].append(moment(letter.at));
    row.cells[2].append(letter.operation ?? "(unreadable)");
    row.cells[2].title = letter.operation ?? "";
    row.cells[3].append(count(letter.deliveries));
    row.cells[4].append(
      element(
        "button",
        { class: "pt-link", type: "button", onclick: () => this.show(letter) },
        letter.reason || "(no reason)",
      ),
    );
    return row;
  }

  choose(id, chosen) {
    if (chosen) this.chosen.add(id);
    else this.chosen.delete(id);
  }

  mark() {
    for (const row of this.body.rows) {
      row.cells[0].firstChild.checked = this.chosen.has(row.dataset.key);
    }
    const all = byId("dead-all");
    all.checked = this.shown.length > 0 && this.chosen.size === this.shown.length;
    all.indeterminate = this.chosen.size > 0 && !all.checked;
    setText(byId("dead-chosen"), this.chosen.size ? `${count(this.chosen.size)} chosen` : "");
    for (const name of Object.keys(VERBS)) {
      byId(`dead-${name}`).disabled = this.locked || this.chosen.size === 0;
    }
  }

  async ask(name, ids) {
    const [verb, consequence] = VERBS[name];
    const done = await confirm({
      title: `${verb} ${plural(ids.length, "dead letter")}`,
      body: [element("p", {}, `They are ${consequence}`)],
      verb,
      danger: name === "drop",
      act: () => this.actions.post(name, { letters: ids }),
    });
    this.load();
    if (done) this.actions.after();
  }

  async show({ id }) {
    let letter;
    try {
      letter = await fetchJson(`${this.root}/letter?id=${encodeURIComponent(id)}`);
    } catch (error) {
      this.say(error.message);
      return;
    }
    const part = (title, text) => [
      element("h3", {}, title),
      element("pre", { tabindex: 0, "aria-label": title }, text),
    ];
    const deliveries = plural(letter.deliveries, "delivery", "deliveries");
    const [verb, consequence] = VERBS.retry;
    const retry = { verb, act: () => this.actions.post("retry", { letters: [id] }) };
    const done = await confirm({
      title: letter.operation ?? "An unreadable message",
      body: [
        element("p", { class: "pt-note" }, `${id} · since ${moment(letter.at)} · ${deliveries}`),
        ...part("Reason", letter.reason || "Not known"),
        ...part("Arguments", letter.arguments ?? "They cannot be read."),
        ...(letter.history.length === 0 ? [] : part("Failed attempts", attempts(letter.history))),
        element("details", {}, element("summary", {}, "The message as it was in the queue, without the arguments"),
          ...part("Message", letter.message)),
        ...(this.locked ? [] : [element("p", { class: "pt-note mt-2" }, `${verb}: it is ${consequence}`)]),
      ],
      cancel: "Close",
      ...(this.locked ? {} : retry),
    });
    if (done) {
      this.load();
      this.actions.after();
    }
  }
}
