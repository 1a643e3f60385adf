// Parts of the page as the server writes them, whenever they change.
"use strict";
const state = document.getElementById("connection");
const source = new EventSource("/live/events");
const say = (text, kind) => {
  state.textContent = text;
  state.className = "chip " + kind;
};
source.addEventListener("open", () => say("live", "good"));
source.addEventListener("error", () => say("not connected", "bad"));
for (const part of document.querySelectorAll("[data-live]")) {
  source.addEventListener(part.dataset.live, (event) => {
    part.innerHTML = event.data;
  });
}
addEventListener("pagehide", () => source.close());
