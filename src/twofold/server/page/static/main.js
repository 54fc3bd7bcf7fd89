// One page, three views: the part behind # says which.

import { startChat } from "./chat.js";
import { $ } from "./dom.js";
import { startExplore } from "./explore.js";
import { instruments } from "./instruments.js";
import { startResults } from "./results.js";
import { startTheme } from "./theme.js";

const views = {
  chat: { title: "Chat", start: startChat },
  results: { title: "Results", start: startResults },
  explore: { title: "Explore", start: startExplore },
};
const started = new Map();

function show() {
  const asked = location.hash.slice(1);
  const name = asked in views ? asked : "chat";
  for (const link of document.querySelectorAll(".bar nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const other of Object.keys(views)) $(`view-${other}`).hidden = other !== name;
  document.title = `${views[name].title} · Twofold`;
  if (!started.has(name)) started.set(name, views[name].start());
  else started.get(name)?.shown?.();
  if (name === "chat") instruments.look();
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
startTheme();
instruments.start();
addEventListener("hashchange", show);
show();
