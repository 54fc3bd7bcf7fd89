// Several workers as one: sums of what adds up, means of what does not.

const ADDED = [
  "running",
  "waiting",
  "num_blocks",
  "used_blocks",
  "cached_blocks",
  "prefix_queries",
  "prefix_hits",
  "preemptions",
  "steps",
  "step_seconds",
  "prompt_tokens",
  "output_tokens",
  "tokens_per_s",
];

/** The snapshots of all workers as one; null where there is none yet. */
export function summed(snapshots) {
  if (!snapshots.length) return null;
  const sum = Object.fromEntries(
    ADDED.map((name) => [name, total(snapshots.map((seen) => seen[name] ?? 0))]),
  );
  const known = snapshots.filter((seen) => seen.ttft !== null);
  return {
    ...sum,
    ttft: known.length ? total(known.map((seen) => seen.ttft)) / known.length : null,
    predicted_seconds: snapshots.some((seen) => seen.predicted_seconds === null)
      ? null
      : total(snapshots.map((seen) => seen.predicted_seconds)),
    prediction_missing: snapshots.map((seen) => seen.prediction_missing).find(Boolean) ?? "",
    drafted: places(snapshots.map((seen) => seen.drafted)),
    accepted: places(snapshots.map((seen) => seen.accepted)),
    techniques: snapshots
      .map((seen) => seen.techniques)
      .reduce((all, one) => {
        const names = [...new Set([...Object.keys(all), ...Object.keys(one)])];
        return Object.fromEntries(names.map((name) => [name, named([all[name] ?? {}, one[name] ?? {}])]));
      }, {}),
    memory: named(snapshots.map((seen) => seen.memory)),
    moved: named(snapshots.map((seen) => seen.moved)),
  };
}

const total = (values) => values.reduce((a, b) => a + b, 0);
const places = (lists) =>
  Array.from({ length: Math.max(0, ...lists.map((l) => l.length)) }, (_, i) =>
    total(lists.map((l) => l[i] ?? 0)),
  );

function named(records) {
  const names = [...new Set(records.flatMap((record) => Object.keys(record)))];
  return Object.fromEntries(names.map((name) => [name, total(records.map((record) => record[name] ?? 0))]));
}
