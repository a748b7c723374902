// The charts of a pool's page: the lines of each, and their looks.

import { count, duration, percent, rate } from "./format.js";

const column = (name) => (columns) => columns[name] ?? null;

// On a logarithmic axis there is no zero.
const positive = (name) => (columns) =>
  columns[name].map((value) => (value === null || value <= 0 ? null : value));

// Text of the server for plotly, which reads some tags: none of ours is one.
function wrapped(text) {
  const harmless = text.slice(0, 400).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return harmless.replace(/(.{50}[^ ]*) /g, "$1<br>");
}

const DECADES = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100, 1000, 10000];
const DECADE_TEXTS = ["1 µs", "10 µs", "0.1 ms", "1 ms", "10 ms", "0.1 s", "1 s", "10 s", "100 s"];

// The categories of errors, each always in the same color.
export const CATEGORIES = {
  python: "red",
  client: "blue-light",
  timeout: "orange",
  connection: "purple",
  communication: "blue",
  resource: "teal",
  session: "brown",
  initialization: "pink",
  health_check: "green",
  system: "gray",
};

// The range of a logarithmic axis that holds the values and the objective, in steps of
// half a decade, so that it stays where it is while values change.
function range(columns, objective) {
  let low = objective;
  let high = objective;
  for (const name of ["wait_p50", "wait_p99", "run_p50", "run_p99", "latency_mean",
    "latency_p99", "oldest_age"]) {
    for (const value of columns[name]) {
      if (value !== null && value > 0) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
  }
  const floor = Math.max(-5, Math.floor(2 * Math.log10(low)) / 2);
  return [floor, Math.max(floor + 1, Math.ceil(2 * Math.log10(high) + 0.1) / 2)];
}

// An axis of things that are counted: no halves.
function whole(unit, columns, names) {
  let most = 0;
  for (const name of names) for (const value of columns[name] ?? []) most = Math.max(most, value);
  return {
    rangemode: "tozero",
    title: { text: unit, standoff: 4 },
    tickformat: ",d",
    ...(most <= 5 ? { dtick: 1, range: [0, Math.max(1, most) * 1.05] } : {}),
  };
}

export const SPECS = {
  utilization: {
    label: "Utilization",
    lines: [
      { label: "utilization", value: column("utilization"), color: "blue", fill: true,
        format: percent },
    ],
    axis: () => ({ tickformat: ".0%", range: [0, 1.02], tickvals: [0, 0.2, 0.4, 0.6, 0.8, 1] }),
    shapes: ({ band }, color) =>
      band
        ? [{ type: "rect", xref: "paper", x0: 0, x1: 1, y0: band.low, y1: band.high,
            layer: "below", fillcolor: color("band"), line: { width: 0 } }]
        : [],
  },
  throughput: {
    label: "Throughput",
    lines: [
      { label: "throughput", value: column("throughput"), color: "blue", fill: true,
        format: rate },
    ],
    axis: () => ({ ticksuffix: " /s", rangemode: "tozero" }),
  },
  latency: {
    label: "Wait, run and latency",
    lines: [
      { label: "wait p50", value: positive("wait_p50"), color: "blue-light", format: duration },
      { label: "wait p99", value: positive("wait_p99"), color: "blue", format: duration,
        width: 2 },
      { label: "run p50", value: positive("run_p50"), color: "orange-light", format: duration },
      { label: "run p99", value: positive("run_p99"), color: "orange", format: duration },
      { label: "average latency", value: positive("latency_mean"), color: "purple", dash: "dot",
        format: duration, points: true },
      { label: "latency p99", value: positive("latency_p99"), color: "purple", format: duration },
      { label: "oldest", value: positive("oldest_age"), color: "red", dash: "dash",
        format: duration },
    ],
    axis: ({ series, objective }) => ({
      type: "log",
      range: range(series.columns, objective.wait),
      tickvals: DECADES,
      ticktext: DECADE_TEXTS,
      rangemode: "normal",
    }),
    shapes: ({ objective }, color) => [
      { type: "line", xref: "paper", x0: 0, x1: 1, y0: objective.wait, y1: objective.wait,
        line: { color: color("green"), width: 1.5, dash: "dash" } },
    ],
    limits: [{ label: "objective", color: "green", dash: "dash" }],
  },
  errors: {
    label: "Errors",
    lines: [
      { label: "errors a second", onlyInWords: true, format: rate,
        value: (columns, { series }) =>
          columns.errors.map((errors) =>
            errors === null
              ? null
              : Object.values(errors).reduce((sum, one) => sum + one, 0) / series.step) },
      // A line along zero would hide that there are none.
      { label: "error rate", color: "text", format: percent, right: true, points: true,
        value: ({ error_rate: rates }) => (rates.some((value) => value > 0) ? rates : null) },
    ],
    right: () => ({ tickformat: ".0%", rangemode: "tozero", minallowed: 0, maxallowed: 1 }),
    bars: ({ series: { columns, complete, step } }, x, color) =>
      Object.entries(CATEGORIES).flatMap(([name, shade]) => {
        const y = columns.errors.map((errors) => errors && (errors[name] ?? 0) / step);
        if (!y.some((value) => value > 0)) return [];
        return [{
          type: "bar",
          name: name.replace("_", " "),
          x,
          y,
          offset: 0,
          width: step * 1000,
          marker: {
            color: color(shade),
            opacity: y.map((_, at) => (at < complete ? 1 : 0.5)),
          },
          customdata: y.map(rate),
          hovertemplate: "%{customdata}",
        }];
      }),
    axis: () => ({ ticksuffix: " /s", rangemode: "tozero", minallowed: 0 }),
    // A message that a node refused failed in no worker: it is in no column.
    nothing: ({ series: { columns }, failed }) => {
      if (!columns.errors.some((errors) => errors !== null)) return undefined;
      return failed ? "No errors in workers" : "No errors";
    },
  },
  size: {
    label: "Size and busy workers",
    lines: [
      { label: "busy", value: column("busy"), color: "blue", fill: true, shape: "hv",
        format: count },
      { label: "warm", value: column("warm"), color: "teal", shape: "hv", format: count },
      { label: "size", value: column("size"), color: "text", shape: "hv", format: count,
        width: 2 },
      { label: "target", value: column("target"), color: "orange", shape: "hv", dash: "dash",
        format: count },
    ],
    marks: ({ decisions }, local, color) => [
      {
        type: "scatter",
        mode: "markers",
        name: "decision",
        x: decisions.map((decision) => local(decision.at)),
        y: decisions.map((decision) => decision.to),
        marker: { color: color("orange"), size: 8, symbol: "diamond" },
        customdata: decisions.map((decision) => wrapped(decision.reason)),
        hovertemplate: "%{customdata}<extra></extra>",
      },
    ],
    axis: ({ series }) => whole("workers", series.columns, ["busy", "warm", "size", "target"]),
  },
  backlog: {
    label: "Backlog",
    lines: [
      { label: "operations waiting", value: column("backlog"), color: "purple", fill: true,
        shape: "hv", format: count },
    ],
    axis: ({ series }) => whole("operations", series.columns, ["backlog"]),
  },
};
