// Numbers for people. An unknown number is a dash, never zero.

export const UNKNOWN = "—";

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });

const known = (value) => value !== null && value !== undefined;

// Three significant digits, but never more decimals than `most`.
function digits(value, most = 2) {
  const size = Math.abs(value);
  const decimals = size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return value.toFixed(Math.min(decimals, most));
}

const trimmed = (text) => text.replace(/\.0$/, "");

export function count(value) {
  return known(value) ? whole.format(value) : UNKNOWN;
}

export function percent(ratio) {
  if (!known(ratio)) return UNKNOWN;
  const value = ratio * 100;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  if (value === 0) return "0 %";
  return `${value >= 10 ? Math.round(value) : Number(value.toPrecision(2))} %`;
}

export function rate(perSecond) {
  if (!known(perSecond)) return UNKNOWN;
  if (perSecond === 0) return "0 /s";
  if (perSecond > 0 && perSecond < 0.095) return `${Number(perSecond.toPrecision(1))} /s`;
  return `${perSecond >= 100 ? whole.format(perSecond) : digits(perSecond, 1)} /s`;
}

// Seconds, in the unit that suits them.
export function duration(seconds) {
  if (!known(seconds)) return UNKNOWN;
  if (seconds === 0) return "0 s";
  if (seconds < 1e-3) return `${digits(seconds * 1e6, 0)} µs`;
  if (seconds < 0.9995) return `${trimmed(digits(seconds * 1e3, 1))} ms`;
  if (seconds < 60) return `${trimmed(digits(seconds, 1))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) {
    return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} m`;
  }
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

// A window of the page, in words.
export function span(seconds) {
  if (seconds >= 3600) return "hour";
  return seconds > 60 ? `${seconds / 60} minutes` : "minute";
}

export function bytes(number) {
  if (!known(number)) return UNKNOWN;
  return number < 2 ** 30 ? `${digits(number / 2 ** 20, 1)} MB` : `${digits(number / 2 ** 30)} GB`;
}

// Processor seconds a second.
export function cores(number) {
  return known(number) ? `${digits(number)} ${number === 1 ? "core" : "cores"}` : UNKNOWN;
}

const pad = (number) => String(number).padStart(2, "0");

// Seconds since the epoch, as the viewer's clock shows them.
export function clock(at) {
  const time = new Date(at * 1000);
  return [time.getHours(), time.getMinutes(), time.getSeconds()].map(pad).join(":");
}

export function moment(at) {
  const time = new Date(at * 1000);
  const day = [time.getFullYear(), time.getMonth() + 1, time.getDate()].map(pad).join("-");
  return `${day} ${clock(at)}`;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

// The quantile of a pool's objective: p99.
export function quantile(objective) {
  return `p${Number((objective.quantile * 100).toPrecision(6))}`;
}

// server: { name, since } of an answer without it.
export function noServer({ name, since }) {
  return `The server ${name} has not answered since ${clock(since)}.`;
}

// The objective of a pool: { wait, quantile }.
export function promise(objective) {
  const share = Number((objective.quantile * 100).toPrecision(6));
  return `objective: ${share} % within ${duration(objective.wait)}`;
}
