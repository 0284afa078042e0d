// Sends each image to `predict` in a request of its own and shows what it answers. All that comes from files and
// from the model is text: it goes through textContent, never through markup.
"use strict";

const AT_ONCE = 4; // requests under way
const SHOWN = 5; // classes, before one asks for all
const TRIES = 6; // of a request that is answered "busy"
const LONGEST_PAUSE = 30; // seconds
const MAX_BYTES = Number(document.body.dataset.maxBytes);

const HEADLINES = {
  408: "The upload took too long",
  413: "This image is too large",
  415: "The server does not take this kind of file",
  422: "This file could not be read as an image",
  503: "The server is busy",
};

const byId = (id) => document.getElementById(id);
const cards = new Set();
const queue = [];
let sending = 0;

// What went wrong with an image, in words for people.
class Problem extends Error {
  constructor(headline, hint, passing = false) {
    super(headline);
    this.hint = hint;
    this.passing = passing; // it may go well another time
  }
}

class Card {
  constructor(file) {
    this.file = file;
    this.name = file.name || "pasted image";
    this.stop = new AbortController();
    this.element = byId("card").content.cloneNode(true).firstElementChild;
    this.picture = URL.createObjectURL(file);
    this.fill();
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  fill() {
    const image = this.find("img");
    image.alt = this.name;
    image.addEventListener("error", () => {
      image.hidden = true;
      this.find(".blank").hidden = false;
    });
    image.src = this.picture;
    this.find(".name").textContent = this.find(".name").title = this.name;
    this.find(".close").setAttribute("aria-label", `Remove ${this.name}`);
    this.find(".close").addEventListener("click", () => this.remove());
    this.find(".again").addEventListener("click", () => enqueue(this));
    this.find(".more").addEventListener("click", () => this.unfold());
  }

  say(state, answer, hint = "") {
    this.state = state;
    this.element.className = `card ${state}`;
    this.element.setAttribute("aria-busy", String(state === "waiting"));
    this.find(".answer").textContent = answer;
    this.find(".hint").textContent = hint;
    this.find(".again").hidden = true;
    summarise();
  }

  async classify() {
    const began = performance.now();
    try {
      const prediction = await predict(this.file, this.stop.signal, (hint) => this.say("waiting", "Waiting", hint));
      this.show(prediction, performance.now() - began);
    } catch (error) {
      if (this.stop.signal.aborted) return;
      const known = error instanceof Problem;
      this.say("wrong", known ? error.message : "The answer cannot be shown", known ? error.hint : "");
      this.find(".again").hidden = known && !error.passing;
      if (!known) throw error; // a mistake of this page's own: for the console
    }
  }

  show(prediction, milliseconds) {
    this.given = new Set(prediction.labels ?? [prediction.class]);
    this.ranked = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
    this.say("done", [...this.given].join(", ") || "No label", `answered in ${Math.round(milliseconds)} ms`);
    this.list(SHOWN);
    this.find(".more").hidden = this.ranked.length <= SHOWN;
    this.find(".more").textContent = `Show all ${this.ranked.length} classes`;
  }

  unfold() {
    const more = this.find(".more");
    const unfolded = more.getAttribute("aria-expanded") === "true";
    more.setAttribute("aria-expanded", String(!unfolded));
    more.textContent = unfolded ? `Show all ${this.ranked.length} classes` : `Show ${SHOWN} classes`;
    this.list(unfolded ? SHOWN : this.ranked.length);
  }

  list(count) {
    this.find(".probabilities").replaceChildren(...this.ranked.slice(0, count).map(([name, value]) => {
      const row = byId("probability").content.cloneNode(true).firstElementChild;
      row.classList.toggle("given", this.given.has(name));
      row.querySelector(".class").textContent = name;
      row.querySelector(".percent").textContent = percent(value);
      row.querySelector(".fill").style.width = `${100 * value}%`;
      return row;
    }));
  }

  remove() {
    this.stop.abort();
    URL.revokeObjectURL(this.picture);
    this.element.remove();
    cards.delete(this);
    summarise();
  }
}

// The prediction of an image file. `told` hears of delays. Throws a Problem, or an AbortError by `signal`.
async function predict(file, signal, told) {
  for (let tried = 1; ; tried += 1) {
    const response = await send(file, signal);
    if (response.ok) return (await response.json()).predictions[0];
    if (response.status !== 503 || tried === TRIES) throw await refusal(response);
    const seconds = Math.min(Number(response.headers.get("retry-after")) || 1, LONGEST_PAUSE);
    told(`The server is busy; trying again in ${seconds} s`);
    await pause(1000 * seconds * (1 + Math.random() / 4), signal); // not all clients at the same moment
    told("");
  }
}

async function send(file, signal) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Problem("This file cannot be read", "It is a folder, or it was moved or changed since it was chosen.");
  }
  const headers = { "content-type": "application/octet-stream" };
  try {
    return await fetch("predict", { method: "POST", body: file, headers, signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Problem("The server did not answer", "It may have stopped, or the network may be down.", true);
  }
}

async function refusal(response) {
  const { status } = response;
  let said = {};
  try {
    said = (await response.json()) ?? {};
  } catch {
    // no JSON: something between the page and the server answered
  }
  const reason = said.images?.[0]?.reason ?? said.detail;
  const headline = HEADLINES[status] ?? `The server could not answer (${status})`;
  return new Problem(headline, typeof reason === "string" ? reason : "", status === 408 || status >= 500);
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

function add(files) {
  for (const file of files) {
    const card = new Card(file);
    cards.add(card);
    byId("results").append(card.element);
    if (file.size > MAX_BYTES) {
      card.say("wrong", HEADLINES[413], `It has ${megabytes(file.size)}, the server takes ${megabytes(MAX_BYTES)}: it was not sent.`);
    } else if (file.size === 0) {
      card.say("wrong", "This file is empty", "It was not sent.");
    } else {
      enqueue(card);
    }
  }
}

function enqueue(card) {
  card.say("waiting", "Waiting");
  queue.push(card);
  advance();
}

function advance() {
  while (sending < AT_ONCE && queue.length) {
    const card = queue.shift();
    if (!cards.has(card)) continue;
    sending += 1;
    card.classify().finally(() => {
      sending -= 1;
      advance();
    });
  }
}

// One line for all images; screen readers hear it as it changes.
function summarise() {
  const all = [...cards];
  const count = (state) => all.filter((card) => card.state === state).length;
  document.body.classList.toggle("busy", all.length > 0);
  byId("clear").hidden = !all.length;
  byId("status").textContent = summary(all, count("waiting"), count("wrong"));
}

function summary(all, waiting, wrong) {
  if (!all.length) return "";
  if (waiting) return `${all.length - waiting} of ${all.length} done`;
  if (all.length === 1) return `${all[0].name}: ${all[0].find(".answer").textContent}`;
  const tally = new Map();
  for (const card of all) {
    for (const name of card.state === "done" ? card.given : []) tally.set(name, (tally.get(name) ?? 0) + 1);
  }
  const parts = [...tally].sort((a, b) => b[1] - a[1]).slice(0, SHOWN).map(([name, times]) => `${times} ${name}`);
  return [`${all.length} images`, ...parts, ...(wrong ? [`${wrong} without an answer`] : [])].join(" · ");
}

function percent(value) {
  if (value > 0.9995 && value < 1) return "> 99.9 %";
  if (value < 0.0005 && value > 0) return "< 0.1 %";
  return `${(100 * value).toFixed(1)} %`;
}

function megabytes(bytes) {
  return bytes < 1e5 ? `${bytes} bytes` : `${Number((bytes / 1e6).toFixed(1))} MB`;
}

async function describe() {
  const model = await (await fetch("model")).json();
  const facts = {
    Backbone: model.backbone,
    Variant: model.variant,
    Input: model.input_size && `${model.input_size} × ${model.input_size}`,
    Classes: String(model.classes.length),
  };
  for (const [name, value] of Object.entries(facts)) {
    if (!value) continue;
    const pair = document.createElement("div");
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    [term.textContent, text.textContent] = [name, value];
    pair.append(term, text);
    byId("facts").append(pair);
  }
  byId("classes").textContent = model.classes.join(" · ");
}

function listen() {
  const drop = byId("drop");
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  for (const kind of ["dragenter", "dragover"]) {
    window.addEventListener(kind, (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault(); // else the browser would open the image in place of the page
      drop.classList.add("over");
    });
  }
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  window.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    if (!carriesFiles(event)) return;
    event.preventDefault();
    add(event.dataTransfer.files);
  });
  window.addEventListener("paste", (event) => add(event.clipboardData?.files ?? []));
  byId("files").addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
  byId("clear").addEventListener("click", () => [...cards].forEach((card) => card.remove()));
}

byId("limit").textContent = `up to ${megabytes(MAX_BYTES)} each`;
byId("curl").textContent = `curl --form files=@image.jpg ${new URL("predict", location.href)}`;
listen();
describe().catch(() => {
  byId("status").textContent = "The server does not say which model it has; images may be sent all the same.";
});
