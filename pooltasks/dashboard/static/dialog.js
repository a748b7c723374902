// Asks before anything is done, and says how it went.

import { byId, element, setText } from "./dom.js";
import { fetchJson } from "./feed.js";

const SLOW_MS = 15000;

let attempt = null;
let finish = null;

byId("dialog-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt?.();
});
byId("dialog-cancel").addEventListener("click", () => byId("dialog").close());
byId("dialog").addEventListener("close", () => finish?.());

// Ask, act, and show the outcome. Resolves to whether the action was done.
//
//   title    the action that is about to be done
//   body     elements that explain it, and take its arguments
//   verb     text of its button; none if there is no action
//   cancel   text of the button that does nothing
//   danger   whether the action loses data
//   act()    does it and returns its outcome in words
export function confirm({ title, body, verb, cancel = "Cancel", danger = false, act }) {
  const dialog = byId("dialog");
  const button = byId("dialog-do");
  const problem = byId("dialog-problem");
  setText(byId("dialog-title"), title);
  byId("dialog-body").replaceChildren(...body);
  setText(button, verb ?? "");
  button.hidden = act === undefined;
  button.disabled = false;
  button.className = `btn ${danger ? "btn-danger" : "btn-primary"}`;
  setText(byId("dialog-cancel"), cancel);
  problem.hidden = true;
  dialog.showModal();
  return new Promise((resolve) => {
    let done = false;
    finish = () => resolve(done);
    attempt = act && (async () => {
      button.disabled = true;
      problem.hidden = true;
      try {
        const outcome = await act();
        done = true;
        dialog.close();
        notify(outcome);
      } catch (error) {
        setText(problem, error.message);
        problem.hidden = false;
        button.disabled = false;
      }
    });
  });
}

// Have the server do an action; returns its outcome in words, throws the refusal.
export async function post(url, argument) {
  const token = /(?:^|;\s*)_xsrf=([^;]+)/.exec(document.cookie)?.[1] ?? "";
  const answer = await fetchJson(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-XSRFToken": decodeURIComponent(token) },
    body: JSON.stringify(argument),
    signal: AbortSignal.timeout(SLOW_MS),
  });
  return answer.outcome;
}

// A message in the corner, where Flower has its own.
function notify(text) {
  const toast = element(
    "div",
    { class: "toast text-bg-success border-0", role: "status" },
    element("div", { class: "toast-body" }, text),
  );
  byId("toast-container").append(toast);
  toast.addEventListener("hidden.bs.toast", () => toast.remove());
  window.bootstrap.Toast.getOrCreateInstance(toast, { delay: 6000 }).show();
}
