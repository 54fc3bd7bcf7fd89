// From values to places in a drawing, and the ticks between.

/** Logarithmic: `at(value)` is a coordinate from `start` (lowest) to `end`; ticks at 1, 2, 5 or at decades. */
export function logScale(low, high, start, end) {
  const [a, b] = [Math.log10(low), Math.log10(high)];
  const at = (value) => start + ((Math.log10(value) - a) / (b - a || 1)) * (end - start);
  const room = Math.abs(end - start) / Math.max(0.01, b - a); // pixels per decade
  const steps = room > 120 ? [1, 2, 5] : room > 70 ? [1, 3] : [1];
  const ticks = [];
  for (let power = Math.floor(a); power <= Math.ceil(b); power += 1) {
    for (const step of steps) {
      const value = step * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) ticks.push(value);
    }
  }
  return { at, ticks: thinned(ticks, at) };
}

/** Linear, with ticks at round numbers. */
export function linearScale(low, high, start, end, wanted = 4) {
  const at = (value) => start + ((value - low) / (high - low || 1)) * (end - start);
  const raw = (high - low || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9); i += 1) ticks.push(i * step);
  return { at, ticks };
}

/** The ends of a logarithmic axis around `values`, at least `least` times apart. */
export function logEnds(values, least = 2.5, margin = 1.18) {
  let low = Math.min(...values) / margin;
  let high = Math.max(...values) * margin;
  if (high / low < least) {
    const middle = Math.sqrt(low * high);
    low = middle / Math.sqrt(least);
    high = middle * Math.sqrt(least);
  }
  return [low, high];
}

function thinned(ticks, at) {
  const kept = [];
  for (const tick of ticks) if (!kept.length || Math.abs(at(tick) - at(kept.at(-1))) >= 30) kept.push(tick);
  return kept;
}
