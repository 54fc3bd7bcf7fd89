// The chat: what is sent, what comes back, and the keys that drive it.

import { events } from "./api.js";
import { Conversation } from "./conversation.js";
import { $, h } from "./dom.js";
import { instruments } from "./instruments.js";

const SETTINGS = { temperature: "temperature", top_p: "top-p", max_completion_tokens: "max-tokens" };
let conversation;
let running = null; // the AbortController of the answer that comes in

export function startChat() {
  conversation = new Conversation($("log"), regenerate);
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("message").value.trim();
    if (!text || running) return;
    $("message").value = "";
    grow();
    conversation.ask(text);
    answer();
  });
  $("message").addEventListener("input", grow);
  $("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("composer").requestSubmit();
    }
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running && !$("view-chat").hidden) stop();
  });
  $("stop").addEventListener("click", stop);
  $("new-chat").addEventListener("click", () => {
    stop();
    conversation.clear();
    $("message").focus();
  });
  if (matchMedia("(pointer: fine)").matches) $("message").focus();
}

function stop() {
  running?.abort();
}

function regenerate() {
  if (running) return;
  conversation.dropAnswer();
  answer();
}

/** The textarea is as high as its text, up to a third of the window. */
function grow() {
  const area = $("message");
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, innerHeight / 3)}px`;
}

async function answer() {
  const mine = (running = new AbortController());
  switchButtons(true);
  for (const id of [...Object.values(SETTINGS), "system"]) mark($(id), null);
  const reply = conversation.answer(instruments.model);
  try {
    for await (const event of events("/v1/chat/completions", body(), mine.signal)) reply.take(event);
    reply.end("");
  } catch (error) {
    if (error.name === "AbortError") reply.end("Stopped.");
    else fail(reply, error);
  } finally {
    if (running === mine) running = null;
    switchButtons(false);
    instruments.answered(reply);
    $("told").textContent = reply.told();
  }
}

function fail(reply, error) {
  const id = SETTINGS[error.param];
  if (id) {
    $("settings").open = true;
    mark($(id), error.message);
    $(id).focus();
  }
  reply.fail(error.message);
}

/** The request: only what is set is sent. */
function body() {
  const request = {
    model: instruments.model,
    messages: messages(),
    stream: true,
    stream_options: { include_usage: true },
  };
  for (const [name, id] of Object.entries(SETTINGS)) {
    const text = $(id).value.trim();
    if (text) request[name] = Number(text);
  }
  return request;
}

function messages() {
  const system = $("system").value.trim();
  return [...(system ? [{ role: "system", content: system }] : []), ...conversation.messages()];
}

function switchButtons(busy) {
  const had = document.activeElement === $("send") || document.activeElement === $("stop");
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  if (had) (busy ? $("stop") : $("message")).focus();
  conversation.busy(busy);
}

function mark(control, message) {
  control.parentElement.querySelector(".field-error")?.remove();
  control.toggleAttribute("aria-invalid", false);
  control.removeAttribute("aria-describedby");
  if (!message) return;
  const id = `${control.id}-error`;
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-describedby", id);
  control.parentElement.append(h("p", { class: "field-error", id }, message));
}
