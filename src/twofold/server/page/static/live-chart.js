// Measured and predicted step time, reading by reading, and the error between them.

import { h, perFrame, s } from "./dom.js";
import { percent, seconds, short, signed } from "./format.js";
import { linearScale, logEnds, logScale } from "./scales.js";

export const KEPT = 160;
const FEWEST = 24; // places on the axis, so that the first readings stand at the right
const HEIGHT = 250;
const STRIP = 92; // the error's own axes below
const LEFT = 58;
const RIGHT = 12;
const BAND = 0.25; // what reports call close

export class LiveChart {
  constructor(parent) {
    this.readings = []; // {measured, predicted or null}
    this.area = h("div", { class: "live-chart" });
    parent.append(this.area);
    this.draw = perFrame(() => this.paint());
    new ResizeObserver(this.draw).observe(this.area);
  }

  /** One more reading, in seconds; predicted may be null. */
  push(measured, predicted) {
    this.readings.push({ measured, predicted });
    if (this.readings.length > KEPT) this.readings.shift();
    this.draw();
  }

  /** The median absolute error over the readings that have a prediction, and how many there are. */
  error() {
    const errors = this.readings
      .filter((r) => r.predicted)
      .map((r) => Math.abs(r.predicted / r.measured - 1));
    errors.sort((a, b) => a - b);
    return { median: errors.length ? errors[errors.length >> 1] : null, many: errors.length };
  }

  paint() {
    const width = this.area.clientWidth;
    if (!width) return;
    const places = Math.max(this.readings.length, FEWEST);
    const x = (i) => LEFT + ((i + places - this.readings.length) / (places - 1)) * (width - LEFT - RIGHT);
    const drawing = s("svg", {
      width,
      height: HEIGHT + STRIP,
      viewBox: `0 0 ${width} ${HEIGHT + STRIP}`,
      role: "img",
      "aria-label": this.told(),
    });
    if (this.readings.length)
      drawing.append(s("g", {}, this.times(x, width)), s("g", {}, this.errors(x, width)));
    else
      drawing.append(
        s(
          "text",
          { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" },
          "Readings appear once the model works.",
        ),
      );
    this.area.replaceChildren(drawing);
  }

  times(x, width) {
    const values = this.readings.flatMap((r) => [r.measured, r.predicted]).filter((v) => v > 0);
    const y = logScale(...logEnds(values), HEIGHT - 14, 10);
    return [
      grid(y, width, (tick) => short(seconds(tick))),
      line(
        this.readings.map((r) => r.measured),
        x,
        y.at,
        "measured",
      ),
      line(
        this.readings.map((r) => r.predicted),
        x,
        y.at,
        "predicted",
      ),
      ends(this.readings.at(-1), x(this.readings.length - 1), y.at),
    ];
  }

  errors(x, width) {
    const found = this.readings.map((r) => (r.predicted ? r.predicted / r.measured - 1 : null));
    if (found.every((error) => error === null)) return [];
    const most = Math.min(2, Math.max(0.4, ...found.map((error) => Math.abs(error ?? 0))));
    const y = linearScale(-most, most, HEIGHT + STRIP - 8, HEIGHT + 16, 2);
    const mark = [BAND, 0.5, 1].find((tick) => tick >= most / 2.9);
    const clipped = found.map((error) => (error === null ? null : Math.max(-most, Math.min(most, error))));
    const thick = Math.max(1.5, Math.min(7, (width - LEFT - RIGHT) / KEPT - 1));
    return [
      s("rect", {
        class: "band",
        x: LEFT,
        width: width - LEFT - RIGHT,
        y: y.at(BAND),
        height: y.at(-BAND) - y.at(BAND),
      }),
      grid({ at: y.at, ticks: [-mark, 0, mark] }, width, signed),
      ...clipped.map((error, i) =>
        error === null
          ? null
          : s("line", {
              class: "error",
              x1: x(i),
              x2: x(i),
              y1: y.at(0),
              y2: y.at(error),
              "stroke-width": thick,
            }),
      ),
    ];
  }

  told() {
    const last = this.readings.at(-1);
    if (!last) return "Step time, predicted and measured: no readings yet";
    const measured = `The last step took ${seconds(last.measured)}`;
    if (!last.predicted) return `${measured}; there is no prediction.`;
    const { median, many } = this.error();
    const error = `Median error over ${many} readings: ${percent(median)}.`;
    return `${measured}, predicted were ${seconds(last.predicted)}. ${error}`;
  }
}

function grid(scale, width, label) {
  return s(
    "g",
    { class: "grid" },
    scale.ticks.map((tick) => [
      s("line", {
        x1: LEFT,
        x2: width - RIGHT,
        y1: scale.at(tick),
        y2: scale.at(tick),
        class: tick === 0 ? "zero" : null,
      }),
      s("text", { x: LEFT - 8, y: scale.at(tick) + 4, "text-anchor": "end" }, label(tick)),
    ]),
  );
}

/** A line that breaks where there is no value. */
function line(values, x, y, name) {
  let path = "";
  values.forEach((value, i) => {
    if (value > 0) path += `${i && values[i - 1] > 0 ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
  });
  return s("path", { class: `line ${name}`, d: path });
}

function ends(last, x, y) {
  return s(
    "g",
    {},
    ["measured", "predicted"].map((name) =>
      last[name] ? s("circle", { class: `end ${name}`, cx: x, cy: y(last[name]), r: 3.5 }) : null,
    ),
  );
}
