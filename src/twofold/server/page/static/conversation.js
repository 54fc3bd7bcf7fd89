// The messages on the screen, and the answer that is being written.

import { $, h, perFrame } from "./dom.js";
import { digits, seconds } from "./format.js";
import { Growing } from "./markdown.js";

export class Conversation {
  /** regenerate: called by the button under the last answer. */
  constructor(log, regenerate) {
    this.log = log;
    this.turns = []; // {role, content, element}
    this.again = h("button", { type: "button", class: "quiet", onclick: regenerate }, "Regenerate");
    this.clear();
  }

  clear() {
    this.turns = [];
    this.log.replaceChildren(
      h(
        "p",
        { class: "soft empty" },
        "Nothing said yet. The model runs on this machine; what you write stays here.",
      ),
    );
  }

  messages() {
    return this.turns.filter((turn) => turn.content).map(({ role, content }) => ({ role, content }));
  }

  ask(text) {
    this.log.querySelector(".empty")?.remove();
    const element = h(
      "article",
      { class: "turn user", "aria-label": "You" },
      h("h2", {}, "You"),
      h("p", { class: "said" }, text),
    );
    this.add({ role: "user", content: text, element });
  }

  /** A new, empty answer. */
  answer(model) {
    const reply = new Reply(this, model);
    this.add(reply);
    return reply;
  }

  dropAnswer() {
    if (this.turns.at(-1)?.role === "assistant") this.turns.pop().element.remove();
  }

  busy(yes) {
    this.log.setAttribute("aria-busy", String(yes));
    this.again.remove();
    if (!yes) this.turns.at(-1)?.foot?.append(this.again);
    this.follow();
  }

  add(turn) {
    this.turns.push(turn);
    this.log.append(turn.element);
    this.log.scrollTop = this.log.scrollHeight;
  }

  /** Scroll along where the reader is at the end already. */
  follow() {
    const log = this.log;
    if (log.scrollHeight - log.scrollTop - log.clientHeight < 120) log.scrollTop = log.scrollHeight;
  }
}

/** An answer while it comes in, and what was timed of it. */
class Reply {
  constructor(conversation, model) {
    this.role = "assistant";
    this.content = "";
    this.tokens = 0;
    this.started = performance.now();
    this.first = this.last = null;
    this.body = h("div", { class: "said" });
    this.facts = h("span", { class: "facts" });
    this.foot = h("div", { class: "foot soft" }, this.facts);
    this.element = h(
      "article",
      { class: "turn assistant", "aria-label": model },
      h("h2", {}, model),
      this.body,
      this.foot,
    );
    const text = new Growing(this.body);
    this.show = () => {
      text.show(this.content);
      conversation.follow();
    };
    this.draw = perFrame(this.show);
  }

  get ttft() {
    return this.first === null ? null : (this.first - this.started) / 1000;
  }

  get rate() {
    return this.tokens > 1 && this.last > this.first
      ? (this.tokens - 1) / ((this.last - this.first) / 1000)
      : null;
  }

  /** One event of the stream. */
  take(event) {
    const choice = event.choices?.[0];
    if (event.usage) this.tokens = event.usage.completion_tokens;
    if (choice?.finish_reason) this.reason = choice.finish_reason;
    const text = choice?.delta?.content;
    if (!text) return;
    this.first ??= performance.now();
    this.last = performance.now();
    this.tokens += 1; // corrected by the usage at the end
    this.content += text;
    this.draw();
  }

  end(word) {
    const facts = [word, this.reason === "length" ? "Cut off at the limit of tokens." : ""];
    if (this.tokens) facts.push(`${this.tokens} tokens`);
    if (this.rate) facts.push(`${digits(this.rate)} tokens/s`);
    if (this.ttft !== null) facts.push(`first after ${seconds(this.ttft)}`);
    this.show(); // facts under a text that a frame has yet to finish would belie it
    this.facts.textContent = facts.filter(Boolean).join(" · ");
  }

  fail(message) {
    this.end("");
    this.failed = message;
    this.foot.before(h("p", { class: "alert", role: "alert" }, message));
  }

  /** For those who listen: the whole answer, once it is there. */
  told() {
    return this.failed ? "" : `Answer: ${this.content}`;
  }
}
