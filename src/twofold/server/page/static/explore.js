// The explore view: a choice, what it is predicted to do, and what stands around it.

import { getJson, postJson } from "./api.js";
import { ChoiceForm } from "./choice-form.js";
import { $, h } from "./dom.js";
import { showDetails, showFigures, showMemory } from "./figures.js";
import { ParetoPlot } from "./pareto.js";

const PAUSE = 80; // milliseconds without a change before the server is asked
let form;
let plot;
let timer = 0;
let asked = null; // the AbortController of what is asked now
let now = null; // {fragment, result}
let pinned = null;

export function startExplore() {
  plot = new ParetoPlot($("pareto"), { choose: (point) => form.choose(point), again: sweep });
  $("pin").addEventListener("click", pin);
  begin();
  return { shown: () => plot.draw() };
}

async function begin() {
  $("explore-status").textContent = "Loading the catalogues …";
  try {
    form = new ChoiceForm($("choice"), await getJson("/api/choices"), changed);
    ask();
  } catch (error) {
    complain(error);
  }
}

function changed() {
  asked?.abort(); // its answer would be that of another choice
  busy(true);
  clearTimeout(timer);
  timer = setTimeout(ask, PAUSE);
}

/** Whether the figures are about to become those of another choice. */
function busy(yes) {
  $("figures").setAttribute("aria-busy", String(yes));
}

async function ask() {
  const mine = (asked = new AbortController());
  const fragment = form.fragment();
  const began = performance.now();
  try {
    const result = await postJson("/api/predict", fragment, { signal: mine.signal });
    now = { fragment, result };
    form.absolve();
    $("explore-alert").replaceChildren();
    $("explore-status").textContent = `Predicted in ${Math.round(performance.now() - began)} ms.`;
    show();
    busy(false);
    await sweep();
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  }
}

async function sweep() {
  if (!now) return;
  const { fragment } = now;
  const over = plot.over;
  const points = async (of) =>
    (await postJson(`/api/sweep?over=${over}`, of, { signal: asked?.signal })).points;
  try {
    const found = await points(fragment);
    const other = pinned ? await points(pinned.fragment) : [];
    if (now.fragment === fragment && plot.over === over) plot.show(found, fragment, other, pinned?.fragment);
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  }
}

function show() {
  $("figures").classList.remove("stale");
  form.tell(now.result);
  showFigures($("figures"), now.result, pinned?.result);
  showMemory($("memory"), now.result, pinned?.result);
  showDetails($("details"), now, pinned, unpin);
  $("pin").textContent = pinned ? "Pin this instead" : "Pin this choice";
}

function pin() {
  if (!now) return;
  pinned = now;
  show();
  sweep();
}

function unpin() {
  pinned = null;
  show();
  sweep();
}

/** At the field that is at fault, where there is one; the figures stand for the last choice that worked. */
function complain(error) {
  const atField = form?.complain(error.param, error.message);
  const told = atField
    ? "This choice does not work; see the marked field. The figures are those of the last one that did."
    : error.message;
  $("explore-alert").replaceChildren(h("p", { class: "alert" }, told));
  $("explore-status").textContent = "";
  $("figures").classList.add("stale");
  busy(false);
}
