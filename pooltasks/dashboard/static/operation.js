// The page of one operation: where it is, as `pooltasks inspect` says it.

import { announce, byId, element } from "./dom.js";
import { count, duration, moment } from "./format.js";
import { fetchJson } from "./feed.js";

const SLOW_MS = 30000; // all that waits is read, and nodes have a second to answer
const TITLES = {
  waiting: "Waiting",
  held: "Held by a limit",
  delayed: "Waiting for its time",
  reserved: "Reserved",
  running: "Running",
  result: "Ended",
  "dead letter": "Dead letter",
};
const FAILED = ["FAILURE", "REVOKED", "REJECTED"];

const start = JSON.parse(byId("start").textContent);

const isBad = (place) => place.state === "dead letter" || FAILED.includes(place.result);

const when = (at) =>
  at ? `${moment(at)}, ${duration(Math.max(0, Math.round(Date.now() / 1000 - at)))} ago` : null;

function facts(place) {
  const pool = place.pool &&
    element("a", { href: `${start.root}/${encodeURIComponent(place.pool)}` }, place.pool);
  return [
    ["Operation", place.operation],
    ["Pool", pool],
    ["Since", when(place.since)],
    ["Due", place.due && moment(place.due)],
    ["Node", place.node],
    ["Worker", place.worker && `process ${place.worker}`],
    ["Place", place.place && `${count(place.place)} of ${count(place.waiting)}`],
    ["Key", place.key],
    ["Limit", place.limit && `${place.limit}; ${count(place.running)} running`],
    ["Result", place.result],
    ["Value", place.value],
    ["Retries", place.retries !== undefined && count(place.retries)],
    ["Deliveries", place.state === "dead letter" && count(place.deliveries)],
    ["Arguments", place.arguments],
  ].filter(([, value]) => value);
}

// The first is the latest, of which the sentence at the top speaks.
function section(place, number) {
  const title = `place-${number}`;
  const attempts = (place.attempts ?? []).map(({ at, error }) => `${moment(at)}  ${error}`);
  const texts = [
    ["Failed attempts", attempts.join("\n")],
    ["Traceback", place.traceback],
  ].filter(([, text]) => text);
  return element(
    "section",
    { class: "pt-panel pt-place-of", "aria-labelledby": title },
    element("h2", { class: "pt-panel-title", id: title }, TITLES[place.state]),
    ...(number === 0 ? [] : [element("p", {}, place.text)]),
    element(
      "dl",
      {},
      ...facts(place).map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, value)),
      ),
    ),
    ...texts.flatMap(([name, text]) => [
      element("h3", {}, name),
      element("pre", { tabindex: 0, "aria-label": name }, text),
    ]),
  );
}

async function look() {
  const again = byId("again");
  if (!start.id) {
    again.disabled = true;
    return;
  }
  again.disabled = true;
  announce(byId("status"), "unknown", "Looking…");
  try {
    const { places, nowhere } = await fetchJson(
      `${start.root}/-/operation/data?id=${encodeURIComponent(start.id)}`,
      { signal: AbortSignal.timeout(SLOW_MS) },
    );
    // They come in the order of an operation's life.
    const [latest] = places.reverse();
    byId("places").replaceChildren(...places.map(section));
    if (!latest) announce(byId("status"), "fair", nowhere);
    else announce(byId("status"), isBad(latest) ? "bad" : "good", latest.text);
  } catch (error) {
    byId("places").replaceChildren();
    announce(byId("status"), "bad", error.message);
  }
  again.disabled = false;
}

byId("again").addEventListener("click", look);
look();
