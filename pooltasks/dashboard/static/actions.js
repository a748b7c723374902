// The menu of actions, and what the buttons of nodes do.

import { byId, element, setText } from "./dom.js";
import { plural } from "./format.js";
import { confirm, post } from "./dialog.js";

const PAUSES = [
  [300, "5 minutes"],
  [900, "15 minutes"],
  [3600, "1 hour"],
  [86400, "1 day"],
];

export class Actions {
  // start: what the page began with. after(): something was done.
  constructor(start, after) {
    this.start = start;
    this.after = after;
    this.answer = null;
    if (start.locked) {
      setText(byId("locked"), start.locked);
      byId("locked").hidden = false;
    }
    byId("nodes").dataset.locked = String(Boolean(start.locked));
    for (const button of document.querySelectorAll("[data-action]")) {
      button.disabled = Boolean(start.locked);
      button.addEventListener("click", () => this[button.dataset.action]());
    }
  }

  // The latest answer of the server.
  take(answer) {
    this.answer = answer;
    const verb = answer.optimizer.paused ? "Have the optimizer act again…" : "Pause the optimizer…";
    setText(byId("pause"), verb);
  }

  post(name, argument) {
    return post(`${this.start.root}/${this.start.pool}/actions/${name}`, argument);
  }

  async ask(question) {
    if (await confirm(question)) this.after();
  }

  resize() {
    const input = element("input", {
      class: "form-control",
      id: "resize-size",
      type: "number",
      min: 0,
      max: 100000,
      step: 1,
      required: true,
      value: this.answer?.load?.size ?? "",
    });
    const nodes = this.answer?.nodes?.filter((node) => node.state !== "stale").length ?? 0;
    this.ask({
      title: `Resize the pool ${this.start.pool}`,
      body: [
        element("label", { class: "form-label", for: "resize-size" }, "Workers, over all nodes"),
        input,
        element(
          "p",
          { class: "pt-note mt-2" },
          `They are split over ${plural(nodes, "node")}, each within its bounds. Nothing that ` +
            "runs is interrupted. An optimizer that acts may set another size within a second.",
        ),
      ],
      verb: "Resize",
      act: () => this.post("resize", { size: input.valueAsNumber }),
    });
  }

  warm() {
    this.ask({
      title: `Warm the pool ${this.start.pool} up again`,
      body: [
        element(
          "p",
          {},
          "Every worker runs the pool's warm-up once more; a busy one does so after its operation.",
        ),
      ],
      verb: "Warm up",
      act: () => this.post("warm", {}),
    });
  }

  pause() {
    if (this.answer?.optimizer?.paused) {
      this.ask({
        title: `Have the optimizer of ${this.start.pool} act again`,
        body: [element("p", {}, "It sets the size of the pool again from its next turn on.")],
        verb: "Act again",
        act: () => this.post("resume", {}),
      });
      return;
    }
    const select = element(
      "select",
      { class: "form-select", id: "pause-seconds" },
      ...PAUSES.map(([seconds, text]) => element("option", { value: seconds }, text)),
    );
    this.ask({
      title: `Pause the optimizer of ${this.start.pool}`,
      body: [
        element("label", { class: "form-label", for: "pause-seconds" }, "For"),
        select,
        element("p", { class: "pt-note mt-2" },
          "It goes on watching and the pool keeps its size. A pause ends by itself."),
      ],
      verb: "Pause",
      act: () => this.post("pause", { seconds: Number(select.value) }),
    });
  }

  drain(node) {
    const undo = node.state === "draining";
    this.ask({
      title: undo ? `Have ${node.celery_name} take work again` : `Drain ${node.celery_name}`,
      body: [
        element(
          "p",
          {},
          undo
            ? "The node takes operations from the queue again."
            : "The node finishes what it has and takes nothing more, until this is undone or it " +
                "starts again. The other nodes go on.",
        ),
      ],
      verb: undo ? "Take work" : "Drain",
      act: () => this.post("drain", { node: node.celery_name, undo }),
    });
  }
}
