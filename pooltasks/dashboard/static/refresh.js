// The refresh control and the sign beside it; both pages have them.

import { byId, setData, setText } from "./dom.js";
import { clock } from "./format.js";
import { Feed } from "./feed.js";
import { read, write } from "./address.js";

const TEXT = {
  paused: "Paused: the tab is hidden",
  off: "Off",
  away: "No answer",
  broken: "Error",
  blind: "No server",
  refused: "Log in again",
};
const SENTENCES = {
  away: "The dashboard itself does not answer. It is asked again every second.",
  broken: "The dashboard answers with an error; its log says why. It is asked again every second.",
  refused: "You are not logged in any more: load the page again.",
};

// Start asking; returns the feed. first and onAnswer as in Feed; onState(state, text) gets a
// sentence for states without data.
export function startFeed({ url, first = () => false, onAnswer, onState }) {
  const select = byId("refresh");
  const sign = byId("live");
  const text = byId("live-text");
  let at = null;
  const feed = new Feed({
    url,
    first,
    onAnswer: (answer) => {
      at = answer.at ?? null;
      onAnswer(answer);
    },
    onState: (state) => {
      setData(sign, "state", state);
      setText(text, state === "live" ? `Live${at ? ` · ${clock(at)}` : ""}` : TEXT[state]);
      onState(state, SENTENCES[state]);
    },
  });
  select.value = read("refresh", ["0", "1", "5"], "1");
  select.addEventListener("change", () => {
    write("refresh", select.value, "1");
    feed.every(Number(select.value));
  });
  feed.every(Number(select.value));
  return feed;
}
