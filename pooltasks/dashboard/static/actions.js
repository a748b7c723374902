// The menu of actions, and the actions of the nodes' buttons.

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
    byId("rollout-start").disabled =
      Boolean(this.start.locked) || answer.rollout?.state === "live";
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
    const nodes = this.answer?.nodes?.filter((node) => !["stale", "lost"].includes(node.state)).length ?? 0;
    this.ask({
      title: `Resize the pool ${this.start.pool}`,
      body: [
        element("label", { class: "form-label", for: "resize-size" }, "Workers, over all nodes"),
        input,
        element(
          "p",
          { class: "pt-note mt-2" },
          `They are split over ${plural(nodes, "node")}, each within its bounds. Nothing that ` +
            "runs is interrupted. Pause the optimizer first: it sets a size of its own every second.",
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
        body: [element("p", {}, "The optimizer sets the size of the pool again, from its next decision on.")],
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
          "The pool keeps its size meanwhile. The pause ends by itself."),
      ],
      verb: "Pause",
      act: () => this.post("pause", { seconds: Number(select.value) }),
    });
  }

  rolloutStart() {
    const input = element("input", {
      class: "form-control",
      id: "rollout-version",
      required: true,
      maxlength: 64,
      pattern: "[A-Za-z0-9._+\\-]+",
      title: "1 to 64 letters, digits and . _ + -",
      autocomplete: "off",
      spellcheck: "false",
    });
    this.ask({
      title: `Roll a new version out on ${this.start.pool}`,
      body: [
        element("label", { class: "form-label", for: "rollout-version" }, "Version"),
        input,
        element(
          "p",
          { class: "pt-note mt-2" },
          "Begin before the first node of the new version starts, and start it with this version as " +
            "POOLTASKS_VERSION. It gets 5 % of the operations first. Each step is compared with the " +
            "version before; a worse one is rolled back by itself.",
        ),
      ],
      verb: "Begin",
      act: () => this.post("rollout-start", { version: input.value.trim() }),
    });
  }

  // Do something to the rollout as it is seen now: one that has gone on meanwhile refuses.
  lead(name, title, consequence, verb, more = {}) {
    const { version, share } = this.answer.rollout;
    this.ask({
      title,
      body: [element("p", {}, consequence)],
      verb,
      danger: name === "abort",
      act: () => this.post(`rollout-${name}`, { version, share, ...more }),
    });
  }

  rolloutPromote() {
    const { version, share, before } = this.answer.rollout;
    this.lead(
      "promote",
      share === 100 ? `Finish the rollout of ${version}` : `Take the next step with version ${version}`,
      share === 100
        ? `The rollout is done then: the nodes of ${before || "no version"} take nothing more.`
        : `It has ${share} % of the operations and gets more at once, whatever the judge has seen of it. A pause ends.`,
      share === 100 ? "Finish" : "Take the step",
    );
  }

  rolloutPause() {
    const { version, share, paused } = this.answer.rollout;
    if (paused) {
      this.lead("pause", `Have the rollout of ${version} go on`,
        "It takes its steps by itself again.", "Go on", { undo: true });
      return;
    }
    this.lead("pause", `Pause the rollout of ${version}`,
      `It keeps ${share} % of the operations until somebody has it go on. If it turns out worse, it is rolled back all the same.`,
      "Pause");
  }

  rolloutAbort() {
    const { version, before } = this.answer.rollout;
    this.lead("abort", `Roll version ${version} back`,
      `All operations go to ${before || "the nodes without a version"} at once. Nodes of ${version} finish what they have reserved and take nothing more.`,
      "Roll back");
  }

  rolloutForget() {
    const { retired } = this.answer.rollout;
    const versions = retired.map((version) => version || "(none)").join(", ");
    this.lead("forget", "Forget the rollout",
      `Nodes of every version take operations again, also those that are out of use now: ${versions}.`,
      "Forget it");
  }

  drain(node) {
    const undo = ["draining", "drained"].includes(node.state);
    this.ask({
      title: undo ? `Have ${node.celery_name} take work again` : `Drain ${node.celery_name}`,
      body: [
        element(
          "p",
          {},
          undo
            ? "The node takes operations from the queue again."
            : "The node finishes the operations that it has reserved and takes no others, until " +
                "it is told to or starts again. The other nodes of the pool go on.",
        ),
      ],
      verb: undo ? "Take work" : "Drain",
      act: () => this.post("drain", { node: node.celery_name, undo }),
    });
  }
}
