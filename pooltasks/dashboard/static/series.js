// The points of the charts, kept between answers: only new ones are sent.

export class Series {
  constructor() {
    this.clear();
  }

  clear() {
    this.cursor = null;
    this.step = 1;
    this.complete = 0;
    this.columns = { at: [] };
  }

  // Take an answer's points; those that are there already are replaced.
  take({ series, cursor }, window) {
    const fresh = series.columns;
    if (series.whole || this.columns.at.length === 0) {
      this.columns = fresh;
    } else {
      const first = fresh.at[0];
      const kept = this.columns.at.filter((at) => at < first).length;
      for (const [name, values] of Object.entries(fresh)) {
        this.columns[name] = this.columns[name].slice(0, kept).concat(values);
      }
    }
    this.step = series.step;
    this.cursor = cursor;
    const excess = this.columns.at.length - Math.ceil(window / series.step);
    if (excess > 0) {
      for (const name of Object.keys(this.columns)) {
        this.columns[name] = this.columns[name].slice(excess);
      }
    }
    this.complete = this.columns.at.length - (fresh.at.length - series.complete);
  }
}
