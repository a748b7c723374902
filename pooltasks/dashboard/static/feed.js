// Asks the dashboard again and again, and reports the state of its answers.

const GIVE_UP_MS = 2500;
// The first answer holds a whole window: reading the hour of many nodes takes a while.
const FIRST_MS = 20000;
// Nodes sample in the middle of a second of the server's clock. A question right after
// that gets the newest sample, and all viewers get the same answer.
const PHASE_MS = 650;

export class Feed {
  // url()          address of the next question
  // first()        whether its answer is to hold everything
  // onAnswer(json) its answer
  // onState(state) "live", "paused", "off", "away" (the dashboard does not answer), "blind" (it
  //                does, the server does not), "broken" (it fails), "refused" (it wants a login)
  constructor({ url, first, onAnswer, onState }) {
    this.url = url;
    this.first = first;
    this.onAnswer = onAnswer;
    this.onState = onState;
    this.seconds = 1;
    this.timer = null;
    this.round = 0;
    this.serverAhead = 0;
    document.addEventListener("visibilitychange", () => this.restart());
  }

  every(seconds) {
    this.seconds = seconds;
    this.restart();
  }

  // Ask now, without waiting for the next turn.
  restart() {
    clearTimeout(this.timer);
    this.round += 1;
    if (document.hidden) {
      this.onState("paused");
      return;
    }
    this.ask(this.round);
  }

  async ask(round) {
    let state = "live";
    try {
      const patience = this.first() ? FIRST_MS : GIVE_UP_MS;
      const answer = await fetchJson(this.url(), { signal: AbortSignal.timeout(patience) });
      if (round !== this.round) return;
      if (answer.at) this.serverAhead = answer.at * 1000 - Date.now();
      if (!answer.server.reachable) state = "blind";
      this.onAnswer(answer);
    } catch (error) {
      if (round !== this.round) return;
      if (!(error instanceof Refusal)) console.error(error);
      state = { 0: "away", 401: "refused" }[error.status] ?? "broken";
    }
    if (state === "live" && this.seconds === 0) state = "off";
    this.onState(state);
    if (this.seconds > 0) this.timer = setTimeout(() => this.ask(round), this.pause());
  }

  pause() {
    const now = Date.now() + this.serverAhead;
    const wait = 1000 - ((now - PHASE_MS) % 1000) + (this.seconds - 1) * 1000;
    return wait < 300 ? wait + 1000 : wait;
  }
}

export class Refusal extends Error {
  constructor(status, text) {
    super(text || `The dashboard answers ${status}.`);
    this.status = status;
  }
}

export async function fetchJson(url, options = {}) {
  let response;
  let body;
  try {
    response = await fetch(url, { signal: AbortSignal.timeout(GIVE_UP_MS), ...options });
    body = await response.text();
  } catch {
    throw new Refusal(0, "The dashboard does not answer.");
  }
  if (!response.ok) throw new Refusal(response.status, body);
  return JSON.parse(body);
}
