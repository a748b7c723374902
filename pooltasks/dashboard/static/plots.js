// Charts over time, drawn by plotly, readable without seeing them.

import { byId, element, setText } from "./dom.js";
import { clock } from "./format.js";

// Plotly's script keeps the page busy for a second. The numbers come first, if they come soon.
const SOON_MS = 250;
let begin;
const begun = new Promise((resolve) => {
  begin = resolve;
  setTimeout(resolve, SOON_MS);
});
const painted = () =>
  new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
const plotly = begun.then(painted).then(
  () =>
    new Promise((resolve, reject) => {
      const script = element("script", { src: byId("plotly").href });
      script.addEventListener("load", () => resolve(window.Plotly));
      script.addEventListener("error", () => reject(new Error("plotly cannot be loaded")));
      document.head.append(script);
    }),
);

// Drawing a chart for the first time takes a while: one after the other, each after the browser
// has painted the one before.
let turn = plotly;
const nextTurn = () => {
  turn = turn.then(painted);
  return turn;
};

const MOST_PARTS = 30;
const TICKS = [5, 10, 15, 20, 30, 60, 120, 300, 600, 1200]; // seconds
const EMPTY = { xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false };
const CONFIG = { displayModeBar: false, responsive: true, doubleClick: false };

// Plotly takes times as UTC; it is given what the viewer's clock shows.
function local(at) {
  const ms = at * 1000;
  return ms - new Date(ms).getTimezoneOffset() * 60000;
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--pt-${name}`).trim();
}

// One chart.
//
//   figure   the element that it fills
//   spec     label   what it shows, in words
//            lines   [{ label, value(columns) → numbers, color, dash, shape, fill, format,
//                       onlyInWords, right, points }]; `value` may return null: there is none;
//                     `points`: also those that have no neighbor
//            axis    plotly's y axis
//            right(context) that of the lines with `right`, optional
//            nothing(context) what to say when there is nothing to draw, optional
//            limits  [{ label, color, dash }]: what `shapes` draws, for the legend
//            shapes(context), marks(context), bars(context) → plotly's, optional
export class Chart {
  constructor(figure, spec) {
    this.figure = figure;
    this.spec = spec;
    this.canvas = element("div", { class: "pt-canvas", "aria-hidden": "true" });
    this.summary = element("figcaption", { class: "visually-hidden" });
    this.spoken = element("span", { class: "visually-hidden", "aria-live": "polite" });
    figure.tabIndex = 0;
    figure.setAttribute("role", "group");
    figure.setAttribute("aria-label", `${spec.label}: arrow keys read the points`);
    figure.append(this.canvas, this.legend(), this.summary, this.spoken);
    this.latest = null;
    this.visible = false;
    this.waiting = false; // for its turn to be drawn for the first time
    this.held = false; // somebody reads a point of it: it stays as it is
    this.place = null;
    new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      this.draw();
    }).observe(figure);
    figure.addEventListener("pointerenter", () => this.hold());
    figure.addEventListener("pointerleave", () => this.release());
    figure.addEventListener("blur", () => this.release());
    figure.addEventListener("keydown", (event) => this.onKey(event));
    new MutationObserver(() => this.draw()).observe(document.documentElement, {
      attributeFilter: ["data-bs-theme"],
    });
  }

  legend() {
    const lines = this.spec.lines.filter((line) => !line.onlyInWords);
    const entries = [...lines, ...(this.spec.limits ?? [])];
    if (entries.length < 2 && !this.spec.right) return "";
    return element(
      "ul",
      { class: "pt-legend", "aria-hidden": "true" },
      ...entries.map((line) =>
        element(
          "li",
          {},
          element("span", {
            class: "pt-swatch",
            style: `border-color: var(--pt-${line.color}); border-top-style: ${
              line.dash ? "dashed" : "solid"
            }`,
          }),
          line.label,
        ),
      ),
    );
  }

  // context: { series, window, … } as the spec's functions want it.
  update(context) {
    this.latest = context;
    begin();
    if (!this.held) this.draw();
    setText(this.summary, this.inWords());
  }

  async draw() {
    if (!this.visible || this.latest === null) return;
    const library = await plotly;
    if (!this.canvas.data) {
      if (this.waiting) return;
      this.waiting = true;
      await nextTurn();
      this.waiting = false;
    }
    const { series, window: seconds } = this.latest;
    const { columns, complete } = series;
    if (columns.at.length === 0) return;
    const x = columns.at.map(local);
    const end = x.at(-1) + series.step * 1000;
    const text = color("muted");
    const grid = color("grid");
    const traces = this.spec.bars?.(this.latest, x, color) ?? [];
    for (const line of this.spec.lines.filter((one) => !one.onlyInWords)) {
      const y = line.value(columns, this.latest);
      if (y !== null) traces.push(...this.traces(line, x, y, complete));
    }
    const nothing = traces.every(({ y }) => y.every((value) => value === null));
    traces.push(...(this.spec.marks?.(this.latest, local, color) ?? []));
    const axis = this.spec.axis(this.latest);
    const right = this.spec.right?.(this.latest);
    const annotations = [];
    if (nothing) {
      const words = this.spec.nothing?.(this.latest) ?? "Nothing is known of this time";
      annotations.push({
        ...EMPTY,
        text: words,
        font: { size: 13, color: text },
        bgcolor: color("surface"),
      });
      if (!axis.range) Object.assign(axis, { range: [0, 1], showticklabels: false });
    }
    library.react(
      this.canvas,
      traces,
      {
        height: this.canvas.clientHeight,
        margin: { l: 54, r: right ? 40 : 10, t: 8, b: 24 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: "inherit", size: 11, color: text },
        showlegend: false,
        hovermode: "x unified",
        hoverlabel: {
          bgcolor: color("surface"),
          bordercolor: grid,
          font: { color: color("text"), size: 12 },
        },
        dragmode: false,
        barmode: "stack",
        bargap: 0.15,
        xaxis: {
          type: "date",
          range: [end - seconds * 1000, end],
          fixedrange: true,
          showgrid: false,
          tickformat: seconds > 600 ? "%H:%M" : "%H:%M:%S",
          hoverformat: "%H:%M:%S",
          tick0: 0,
          dtick: this.tick(seconds) * 1000,
          linecolor: grid,
          ticks: "outside",
          ticklen: 3,
          tickcolor: grid,
          zeroline: false,
        },
        yaxis: {
          fixedrange: true,
          gridcolor: grid,
          zeroline: false,
          nticks: 5,
          rangemode: "tozero",
          ...axis,
        },
        yaxis2: {
          visible: Boolean(right) && traces.some(({ yaxis }) => yaxis === "y2"),
          overlaying: "y",
          side: "right",
          fixedrange: true,
          showgrid: false,
          zeroline: false,
          nticks: 5,
          ...right,
        },
        shapes: this.spec.shapes?.(this.latest, color) ?? [],
        annotations,
      },
      CONFIG,
    );
  }

  // The seconds from one mark of the time axis to the next.
  tick(seconds) {
    const most = Math.max(2, Math.floor(this.canvas.clientWidth / 85));
    return TICKS.find((tick) => seconds / tick <= most) ?? TICKS.at(-1);
  }

  // A line, and the part of it that is still filling, dashed.
  traces(line, x, y, complete) {
    const common = {
      type: "scatter",
      mode: line.points ? "lines+markers" : "lines",
      marker: { size: 3, color: color(line.color) },
      name: line.label,
      connectgaps: false,
      ...(line.right ? { yaxis: "y2" } : {}),
      line: {
        color: color(line.color),
        width: line.width ?? 1.5,
        shape: line.shape ?? "linear",
        dash: line.dash,
      },
    };
    const whole = {
      ...common,
      x: x.slice(0, complete),
      y: y.slice(0, complete),
      customdata: y.slice(0, complete).map(line.format),
      hovertemplate: "%{customdata}",
    };
    const fills = line.fill ? this.fills(line, common, whole) : [];
    if (complete === x.length || complete === 0) return [...fills, whole];
    const filling = {
      ...common,
      x: x.slice(complete - 1),
      y: y.slice(complete - 1),
      hoverinfo: "skip",
      line: { ...common.line, dash: "dot" },
    };
    return [...fills, whole, filling];
  }

  // The areas below a line, without those below its gaps: plotly would fill those too.
  fills(line, common, { x, y }) {
    const parts = [];
    let first = 0;
    while (first < y.length) {
      let end = first;
      while (end < y.length && y[end] !== null) end += 1;
      if (end > first) parts.push([first, end]);
      first = end + 1;
    }
    if (parts.length > MOST_PARTS) return [];
    return parts.map(([from, to]) => ({
      ...common,
      x: x.slice(from, to),
      y: y.slice(from, to),
      line: { ...common.line, width: 0 },
      fill: "tozeroy",
      fillcolor: color(`${line.color}-fill`),
      hoverinfo: "skip",
    }));
  }

  inWords() {
    const { columns, complete } = this.latest.series;
    if (complete === 0) return `${this.spec.label}: nothing is known yet.`;
    const parts = this.spec.lines.map((line) => {
      const values = (line.value(columns, this.latest) ?? []).slice(0, complete);
      const present = values.filter((value) => value !== null && value !== undefined);
      if (present.length === 0) return `${line.label} not known`;
      const low = line.format(Math.min(...present));
      const high = line.format(Math.max(...present));
      return `${line.label} now ${line.format(values.at(-1))}, ${low} to ${high}`;
    });
    return `${this.spec.label}: ${parts.join("; ")}.`;
  }

  hold() {
    this.held = true;
  }

  release() {
    if (this.figure.matches(":hover")) return;
    this.held = false;
    this.place = null;
    if (this.canvas.data) window.Plotly.Fx.unhover(this.canvas);
    this.draw();
  }

  onKey(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") {
      this.release();
      return;
    }
    if (!(event.key in steps) || this.latest === null) return;
    event.preventDefault();
    this.hold();
    const { columns, complete } = this.latest.series;
    const last = complete - 1;
    const wanted = (this.place ?? last + 1) + steps[event.key];
    this.place = Math.max(0, Math.min(last, wanted));
    const values = this.spec.lines.map((line) => {
      const all = line.value(columns, this.latest);
      return `${line.label} ${line.format(all?.[this.place])}`;
    });
    setText(this.spoken, `${clock(columns.at[this.place])}: ${values.join(", ")}`);
    if (!this.canvas.data) return; // not drawn yet
    window.Plotly.Fx.hover(this.canvas, [{ xval: local(columns.at[this.place]) }], ["xy"]);
  }
}
