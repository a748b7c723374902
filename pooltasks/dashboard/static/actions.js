// The menu of actions, and what the buttons of nodes do.

import { byId, element, setText } from "./dom.js";
import { plural } from "./format.js";
import { confirm, post } from "./dialog.js";

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
