// Numbers as people read them: three significant digits, SI prefixes; the same as in the reports.

const PREFIXES = [
  [1e15, "P"],
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
  [1, ""],
  [1e-3, "m"],
  [1e-6, "µ"],
  [1e-9, "n"],
];
export const UNKNOWN = "–";

/** Three significant digits without an exponent. */
export function digits(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4) return value.toExponential(0);
  const decimals = size >= 1000 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Number(size.toPrecision(3)))));
  return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

/** What `si` and the like divide `value` by, and the prefix. */
function scaleOf(value, unit) {
  const whole = unit === "B";
  const size = Math.abs(Number(value.toPrecision(3)));
  return (
    PREFIXES.find(([scale]) => size >= scale && !(whole && scale < 1)) ?? (whole ? [1, ""] : PREFIXES.at(-1))
  );
}

export function si(value, unit) {
  if (value === 0) return `0 ${unit}`;
  const [scale, prefix] = scaleOf(value, unit);
  return `${digits(value / scale)} ${prefix}${unit}`;
}

export function seconds(value) {
  if (value >= 7200) return `${digits(value / 3600)} h`;
  return value >= 120 ? `${digits(value / 60)} min` : si(value, "s");
}

export function count(value) {
  return Math.round(value).toLocaleString("en");
}

/** A relative difference: 0.123 is "+12 %"; below 10 % with one decimal. */
export function signed(value) {
  const percent = value * 100;
  const shown = Math.abs(percent) < 9.95 ? percent.toFixed(1) : percent.toFixed(0);
  if (Number(shown) === 0) return "0 %";
  return `${percent > 0 ? "+" : "−"}${shown.replace("-", "")} %`;
}

/** A share: 0.9876 is "98.8 %". */
export function percent(share) {
  return share === 1 || share === 0 ? `${share * 100} %` : `${(share * 100).toFixed(1)} %`;
}

/** A value in the unit of a figure. */
export function value(number, unit) {
  if (unit === "s") return seconds(number);
  if (unit === "B" || unit === "J/token") return si(number, unit);
  return unit === "1" ? digits(number) : `${digits(number)} ${unit}`;
}

/** The middle of a figure {low, mid, high, unit}. */
export function middle(figure) {
  return figure ? value(figure.mid, figure.unit) : UNKNOWN;
}

/** Both ends of a figure in the unit of its middle; empty where they are one. */
export function interval(figure) {
  if (!figure || figure.low === figure.high) return "";
  const { low, mid, high, unit } = figure;
  const scaled = ["s", "B", "J/token"].includes(unit);
  const [scale, prefix] = scaled && mid ? scaleOf(mid, unit) : [1, ""];
  return `${digits(low / scale)} – ${digits(high / scale)} ${prefix}${unit}`;
}

/** Without zeros behind the point: for the ticks of an axis. */
export function short(text) {
  return text.replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "");
}
