// What somebody says to a question goes to the server, and what it answers is shown.
"use strict";
const review = document.querySelector(".review");
const question = document.getElementById("question");
const progress = document.getElementById("progress");
const trouble = document.getElementById("trouble");
const annotator = document.getElementById("annotator");
const NAME = "tagstream-annotator";
let busy = false;

function fields(what, category) {
  const asked = question.querySelector(".ask");
  return new URLSearchParams({
    form_token: document.body.dataset.formToken,
    seat: review.dataset.seat,
    order: review.dataset.order,
    annotator: annotator ? annotator.value : "",
    image_id: asked ? asked.dataset.imageId : "",
    category: category ?? (asked ? asked.dataset.category : ""),
    what,
  });
}

function complain(text) {
  trouble.textContent = text;
  trouble.hidden = !text;
}

async function say(what, category) {
  if (busy) return;
  busy = true;
  try {
    const answer = await fetch("/review/say", { method: "POST", body: fields(what, category) });
    const kind = answer.headers.get("content-type") || "";
    const body = kind.includes("json") ? await answer.json() : {};
    if (!answer.ok) {
      complain(body.trouble || "It was not taken (" + answer.status + "). Load the page again.");
      return;
    }
    complain("");
    question.innerHTML = body.question;
    showHeat();
    progress.innerHTML = body.progress;
    question.dataset.count = String(Number(question.dataset.count || 0) + 1);
    if (body.waits) setTimeout(() => say("show"), 700);
  } catch {
    complain("The server does not answer. What you said last was not taken.");
  } finally {
    busy = false;
  }
}

const KEYS = {
  y: "yes", n: "no", d: "pass", u: "undo", ArrowRight: "pass", ArrowLeft: "back",
};

// Whether heat is shown: of the next pictures, too.
let hot = false;

function showHeat() {
  const heat = question.querySelector(".heat[data-src]");
  if (!heat) return;
  if (hot && !heat.src) heat.src = heat.dataset.src;
  heat.hidden = !hot;
}

function toggleHeat() {
  hot = !hot;
  showHeat();
}

addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "a") {
    event.preventDefault();
    document.getElementById("add")?.focus();
    return;
  }
  if (event.key === "h") toggleHeat();
  const what = KEYS[event.key];
  if (what && (question.querySelector(".ask") || what === "undo" || what === "back")) {
    event.preventDefault();
    say(what);
  }
});

question.addEventListener("click", (event) => {
  if (event.target.closest("#heat")) toggleHeat();
  const button = event.target.closest("[data-say]");
  if (button) say(button.dataset.say);
});

question.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = event.target.querySelector("input");
  const category = field.value.trim();
  if (category) say("add", category);
});

document.getElementById("order").addEventListener("change", (event) => event.target.form.submit());

if (annotator) {
  // Somebody may have typed before this ran.
  annotator.value = annotator.value || localStorage.getItem(NAME) || "";
  annotator.addEventListener("change", () => localStorage.setItem(NAME, annotator.value));
}

addEventListener("pagehide", () => {
  fetch("/review/say", { method: "POST", body: fields("leave"), keepalive: true });
});

say("show");
