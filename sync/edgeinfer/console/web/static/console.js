// Keeps a page alive: one event stream; fragments that are fetched again when something changed; live results;
// charts; forms. What a device says is only ever written with textContent.
"use strict";

const MAX_ROWS = 40, COLORS = 6, RATE_WINDOW_S = 5;
const rates = [];
let paused = false;

// -- the event stream -----------------------------------------------------------------------------------------

function listen() {
  const stream = new EventSource("/api/events");
  stream.addEventListener("open", () => showStream(true));
  stream.addEventListener("error", () => showStream(false));
  const on = (name, act) => stream.addEventListener(name, (event) => act(JSON.parse(event.data)));
  on("missed", () => {
    refreshAll();
    catchUp();
  });
  on("status", showStatus);
  on("results", (data) => {
    countRate(data.counts);
    showResults(data.results);
    changed("results", null);
  });
  on("devices", (data) => changed("devices", data.devices));
  on("deployments", (data) => changed("deployments", data.deployments.map((d) => d.device)));
  window.addEventListener("pagehide", () => stream.close());
}

function showStream(open) {
  const pill = document.getElementById("stream-state");
  pill.className = `pill ${open ? "good" : "warn"}`;
  document.getElementById("stream-text").textContent = open ? "page: live" : "page: reconnecting";
}

function showStatus(status) {
  const pill = document.getElementById("broker-state"), text = document.getElementById("broker-text");
  const before = text.textContent;
  pill.className = `pill ${status.broker.connected ? "good" : "bad"}`;
  pill.title = [status.broker.address, status.broker.error].filter(Boolean).join(": ");
  text.textContent = `broker: ${status.broker.connected ? "connected" : "not connected"}`;
  document.getElementById("storage-banner").hidden = !status.storage_error;
  document.getElementById("storage-text").textContent = status.storage_error;
  if (before !== text.textContent) changed("status", null);
}

// -- fragments ------------------------------------------------------------------------------------------------

const waiting = new Map();

function changed(what, devices) {
  for (const part of document.querySelectorAll("[data-refresh]")) {
    const concerns = !part.dataset.device || !devices || devices.includes(part.dataset.device);
    if (concerns && part.dataset.on.split(" ").includes(what)) refreshSoon(part);
  }
}

function refreshSoon(part) {
  if (waiting.has(part)) return;
  const wait_s = Number(part.dataset.every || 1);
  const since_s = (performance.now() - Number(part.dataset.refreshed || -1e9)) / 1000;
  waiting.set(part, setTimeout(() => refresh(part), Math.max(0, wait_s - since_s) * 1000));
}

async function refresh(part) {
  try {
    const response = await fetch(part.dataset.refresh, { headers: { accept: "text/html" } });
    const html = response.ok ? await response.text() : null;
    if (html !== null && html !== part.lastHtml) replace(part, html);
  } catch {
    // The stream's pill says that the console is away.
  } finally {
    part.dataset.refreshed = performance.now();
    waiting.delete(part);
  }
}

function replace(part, html) {
  const open = [...part.querySelectorAll("details")].map((details) => details.open);
  const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  part.innerHTML = html; // rendered, and escaped, by our own server
  part.lastHtml = html;
  part.querySelectorAll("details").forEach((details, index) => (details.open = open[index] || false));
  if (focused) part.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  tick();
  showRate();
}

function refreshAll() {
  document.querySelectorAll("[data-refresh]").forEach(refreshSoon);
}

// -- live results ---------------------------------------------------------------------------------------------

const SHOWN = [
  "classification", "detection", "anomaly", "keypoints", "segmentation", "embedding", "regression", "raw", "event",
];

function showResults(results) {
  const list = document.getElementById("results");
  if (!list || paused) return;
  const device = list.dataset.device, shown = keysOf(list);
  for (const result of results) {
    if ((device && result.device !== device) || !SHOWN.includes(result.kind)) continue;
    const row = resultRow(result, !device);
    if (!shown.has(row.dataset.key)) list.prepend(row);
  }
  trim(list);
}

// What was stored while no event could tell of it goes below what events have brought since.
async function catchUp() {
  const list = document.getElementById("results");
  if (!list || paused) return;
  const before = list.firstElementChild;
  try {
    const response = await fetch(`/fragments/results?${new URLSearchParams({ device: list.dataset.device })}`);
    if (!response.ok || paused) return;
    const found = document.createElement("template");
    found.innerHTML = await response.text(); // rendered, and escaped, by our own server
    const shown = keysOf(list);
    const place = before?.parentNode === list ? before : null;
    for (const row of [...found.content.children]) {
      if (!shown.has(row.dataset.key)) list.insertBefore(row, place);
    }
    trim(list);
  } catch {
    // The stream's pill says that the console is away; the next stream begins with the same question.
  }
}

function keysOf(list) {
  return new Set([...list.children].map((row) => row.dataset.key));
}

function trim(list) {
  while (list.children.length > MAX_ROWS) list.lastElementChild.remove();
  document.getElementById("results-empty").hidden = list.children.length > 0;
}

function resultRow(result, withDevice) {
  const row = element("li", `result new${result.kind === "event" ? " event" : ""}`);
  row.dataset.key = `${result.device}/${result.epoch}/${result.seq}`;
  const [first] = result.items, more = result.item_count - 1;
  const what = element("span", "what"), name = element("b", first || result.extra ? "" : "none");
  name.textContent = first ? first.name : result.extra ? said(result.extra) : "nothing found";
  what.append(name);
  if (more > 0 && result.kind !== "classification") what.append(" ", element("small", "", `+${more}`));
  const time = element("time", "", format.ago(result.t_s));
  time.dataset.s = result.t_s;
  const cost = element("span", "cost", `${format.latency(result.latency_us)} · `);
  cost.append(time);
  row.append(
    what,
    element("span", "score", first ? format.score(first.score) : ""),
    element("span", "from", withDevice ? `${result.device} · ${result.pipeline}` : result.pipeline),
    cost,
  );
  return row;
}

// The picture of an event is shown elsewhere; its file's name says nothing to a reader.
function said(extra) {
  return Object.entries(extra).filter(([name]) => name !== "snapshot").map((entry) => entry.join(" ")).join(", ");
}

function element(tag, className, text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function countRate(counts) {
  rates.push([performance.now(), counts.reduce((sum, count) => sum + count.n, 0)]);
}

function showRate() {
  const target = document.querySelector("[data-live-rate]");
  while (rates.length && performance.now() - rates[0][0] > RATE_WINDOW_S * 1000) rates.shift();
  if (!target || performance.now() < RATE_WINDOW_S * 1000) return;
  target.textContent = format.rate(rates.reduce((sum, [, n]) => sum + n, 0) / RATE_WINDOW_S);
  document.querySelector("[data-live-rate-note]").textContent = "stored, over 5 s";
}

// -- charts ---------------------------------------------------------------------------------------------------

function startCharts(section) {
  const charts = {
    rate: new Chart(section.querySelector('[data-chart="rate"]'), { unit: format.rate }),
    latency: new Chart(section.querySelector('[data-chart="latency"]'), { unit: format.latency, mayBeLog: true }),
  };
  let minutes = 5;
  const update = async () => {
    if (document.hidden) return;
    const query = new URLSearchParams({ minutes, device: section.dataset.device });
    try {
      const response = await fetch(`/api/series?${query}`);
      if (response.ok) drawCharts(section, charts, await response.json());
    } catch {
      // The stream's pill says that the console is away.
    }
  };
  for (const button of section.querySelectorAll("[data-minutes]")) {
    button.addEventListener("click", () => {
      minutes = Number(button.dataset.minutes);
      section.querySelectorAll("[data-minutes]").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      update();
    });
  }
  document.addEventListener("visibilitychange", update);
  update();
  setInterval(update, 2000);
}

function drawCharts(section, charts, data) {
  const busiest = [...data.series].sort((a, b) => sum(b.rate) - sum(a.rate)).slice(0, COLORS);
  const shown = data.series.filter((series) => busiest.includes(series));
  const name = (series) => (section.dataset.device ? series.pipeline : `${series.device} · ${series.pipeline}`);
  const line = (series, index, more) => ({ name: name(series), color: `c${index}`, ...more });
  const time = { since_s: data.since_s, step_s: data.step_s };
  charts.rate.draw({ ...time, lines: shown.map((s, i) => line(s, i, { values: s.rate, area: shown.length < 3 })) });
  charts.latency.draw({ ...time, lines: shown.map((s, i) => line(s, i, { values: s.p50_us, upper: s.p99_us })) });
  const legend = shown.map((series, index) => {
    const entry = element("li", "");
    entry.append(element("i", `key c${index}`), name(series));
    return entry;
  });
  if (data.series.length > shown.length) legend.push(element("li", "", `and ${data.series.length - shown.length} quieter`));
  section.querySelector("[data-legend]").replaceChildren(...legend);
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

// -- audit and log of a device --------------------------------------------------------------------------------

function startProof(section) {
  const answer = section.querySelector("[data-answer]");
  let asked = 0;
  const check = async (seconds) => {
    const turn = ++asked;
    answer.setAttribute("aria-busy", "true");
    const since = seconds ? `?since=${Math.floor(Date.now() / 1000) - seconds}` : "";
    let html = '<p class="empty">The console does not answer.</p>';
    try {
      const response = await fetch(section.dataset.proof + since, { headers: { accept: "text/html" } });
      if (response.ok) html = await response.text(); // rendered, and escaped, by our own server
    } catch {
      // Said above.
    }
    if (turn !== asked) return;
    answer.innerHTML = html;
    answer.removeAttribute("aria-busy");
    tick();
  };
  for (const button of section.querySelectorAll("[data-seconds]")) {
    button.addEventListener("click", () => {
      section.querySelectorAll("[data-seconds]").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      check(Number(button.dataset.seconds));
    });
  }
  check(Number(section.querySelector('[aria-pressed="true"]').dataset.seconds));
}

function startLog(section) {
  const button = section.querySelector("button"), said = section.querySelector("[data-said]");
  const lines = section.querySelector("[data-lines]");
  button.addEventListener("click", async () => {
    button.disabled = true;
    said.textContent = "Asking the device …";
    try {
      const response = await fetch(`${section.dataset.log}?lines=200`, { method: "POST" });
      const answer = await response.json();
      if (response.ok) {
        lines.textContent = answer.lines.join("\n");
        lines.hidden = false;
        lines.scrollTop = lines.scrollHeight;
      }
      const all = answer.complete ? "" : " Some parts got lost on the way.";
      said.textContent = response.ok ? `${answer.detail || "The latest lines"}.${all}` : explain(answer);
    } catch {
      said.textContent = "The console does not answer.";
    }
    button.disabled = false;
  });
}

// -- forms ----------------------------------------------------------------------------------------------------

function say(form, text, good) {
  const message = form.querySelector(".form-message");
  message.className = `form-message ${good ? "good" : "bad"}`;
  message.textContent = text;
}

function explain(document) {
  return [document.error, document.hint].filter(Boolean).join(": ") || "the console refused";
}

async function deploy(event) {
  event.preventDefault();
  const form = event.target;
  const body = JSON.stringify({ package: form.elements.package.value, to: form.elements.to.value });
  try {
    const response = await fetch("/api/rollouts", { method: "POST", body, headers: { "content-type": "application/json" } });
    const answer = await response.json();
    say(form, response.ok ? `Rollout ${answer.id} started for ${answer.devices} device(s).` : explain(answer), response.ok);
    changed("deployments", null);
  } catch {
    say(form, "The console does not answer.", false);
  }
}

function upload(event) {
  event.preventDefault();
  const form = event.target, bar = document.getElementById("upload-progress"), request = new XMLHttpRequest();
  bar.hidden = false;
  request.upload.onprogress = (progress) => (bar.value = progress.loaded / progress.total);
  request.onloadend = () => {
    bar.hidden = true;
    if (!request.response) return say(form, "The console does not answer.", false);
    const good = request.status < 300, answer = request.response;
    say(form, good ? `${answer.name} ${answer.version} ${answer.new ? "added" : "was there already"}.` : explain(answer), good);
    changed("packages", null);
  };
  request.open("POST", "/api/packages");
  request.responseType = "json";
  request.send(form.elements.file.files[0]);
}

// -- all together ---------------------------------------------------------------------------------------------

function tick() {
  for (const time of document.querySelectorAll("time[data-s]")) {
    const text = format.ago(Number(time.dataset.s));
    if (time.textContent !== text) time.textContent = text;
  }
}

document.getElementById("deploy")?.addEventListener("submit", deploy);
document.getElementById("upload")?.addEventListener("submit", upload);
document.getElementById("pause")?.addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", String(paused));
  event.target.textContent = paused ? "Paused" : "Pause";
  catchUp();
});
document.querySelectorAll("[data-charts]").forEach(startCharts);
document.querySelectorAll("[data-proof]").forEach(startProof);
document.querySelectorAll("[data-log]").forEach(startLog);
setInterval(() => {
  tick();
  showRate();
}, 1000);
tick();
listen();
