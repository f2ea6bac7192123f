// A line chart in SVG: `new Chart(element, {unit, log})`, then `draw({since_s, step_s, lines})` as often as wanted.
// A line is {name, color, values, upper?: values, area?: bool}; null in the values breaks it.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 52, RIGHT = 6, TOP = 8, BOTTOM = 22;

class Chart {
  constructor(element, { unit, mayBeLog = false }) {
    this.element = element;
    this.unit = unit;
    this.mayBeLog = mayBeLog;
    this.data = null;
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    element.append(this.tip);
    new ResizeObserver(() => this.render()).observe(element);
    element.addEventListener("pointermove", (event) => this.point(event));
    element.addEventListener("pointerleave", () => this.point(null));
  }

  draw(data) {
    this.data = data;
    this.render();
  }

  render() {
    if (!this.data || !this.element.clientWidth) return;
    this.width = this.element.clientWidth;
    this.height = this.element.clientHeight;
    const svg = make("svg", { viewBox: `0 0 ${this.width} ${this.height}`, "aria-hidden": "true" });
    const values = this.data.lines.flatMap((line) => [...line.values, ...(line.upper || [])]).filter((v) => v !== null);
    if (values.length && values.some((v) => v > 0)) this.plot(svg, values);
    else svg.append(make("text", { class: "nothing", x: this.width / 2, y: this.height / 2 }, "no results in this time"));
    this.element.querySelector("svg")?.remove();
    this.element.prepend(svg);
    this.element.dataset.drawn = String(this.data.lines.length);
  }

  plot(svg, values) {
    const positive = values.filter((v) => v > 0);
    const high = Math.max(...positive), low = Math.min(...positive);
    this.scale = this.mayBeLog && high / low > 20 ? logScale(low, high) : linearScale(high);
    for (const tick of this.scale.ticks) {
      const y = this.y(tick);
      svg.append(make("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }));
      svg.append(make("text", { class: "axis", x: LEFT - 8, y: y + 4, "text-anchor": "end" }, this.unit(tick)));
    }
    this.timeAxis(svg);
    for (const line of this.data.lines) {
      if (line.area) svg.append(make("path", { class: `area ${line.color}`, d: this.path(line.values, true) }));
      if (line.upper) svg.append(make("path", { class: `line upper ${line.color}`, d: this.path(line.upper, false) }));
      svg.append(make("path", { class: `line ${line.color}`, d: this.path(line.values, false) }));
    }
    this.cross = make("line", { class: "cross", y1: TOP, y2: this.height - BOTTOM, visibility: "hidden" });
    svg.append(this.cross);
  }

  timeAxis(svg) {
    const n = this.data.lines[0]?.values.length || 0;
    const marks = Math.max(2, Math.min(5, Math.floor(this.width / 110)));
    for (let i = 0; i < marks && n > 1; i++) {
      const index = Math.round((i * (n - 1)) / (marks - 1));
      const anchor = i === 0 ? "start" : i === marks - 1 ? "end" : "middle";
      const text = format.clock(this.data.since_s + index * this.data.step_s, this.data.step_s < 60 && n * this.data.step_s < 900);
      svg.append(make("text", { class: "axis", x: this.x(index, n), y: this.height - 4, "text-anchor": anchor }, text));
    }
  }

  path(values, closed) {
    const n = values.length, floor = this.height - BOTTOM;
    let d = "", start = null, last = null;
    const close = () => {
      if (closed && start !== null) d += `L${last.toFixed(1)} ${floor}L${start.toFixed(1)} ${floor}Z`;
      start = null;
    };
    values.forEach((value, index) => {
      if (value === null) return close();
      const x = this.x(index, n);
      d += `${start === null ? "M" : "L"}${x.toFixed(1)} ${this.y(value).toFixed(1)}`;
      if (start === null) {
        start = x;
        // A point alone would not show.
        if (index + 1 >= n || values[index + 1] === null) d += `h0.01`;
      }
      last = x;
    });
    close();
    return d;
  }

  x(index, n) {
    return LEFT + (index / Math.max(1, n - 1)) * (this.width - LEFT - RIGHT);
  }

  y(value) {
    return TOP + (1 - this.scale.place(value)) * (this.height - TOP - BOTTOM);
  }

  point(event) {
    const lines = this.data?.lines || [];
    const n = lines[0]?.values.length || 0;
    const inside = event && n > 0 && this.cross?.isConnected;
    this.tip.hidden = !inside;
    this.cross?.setAttribute("visibility", inside ? "visible" : "hidden");
    if (!inside) return;
    const share = (event.clientX - this.element.getBoundingClientRect().left - LEFT) / (this.width - LEFT - RIGHT);
    const index = Math.max(0, Math.min(n - 1, Math.round(share * (n - 1))));
    const x = this.x(index, n);
    this.cross.setAttribute("x1", x);
    this.cross.setAttribute("x2", x);
    const head = document.createElement("div");
    head.textContent = format.clock(this.data.since_s + index * this.data.step_s);
    this.tip.replaceChildren(head, ...lines.map((line) => this.tipRow(line, index)));
    const left = x > this.width / 2;
    this.tip.style.left = left ? "auto" : `${x + 10}px`;
    this.tip.style.right = left ? `${this.width - x + 10}px` : "auto";
  }

  tipRow(line, index) {
    const row = document.createElement("div"), key = document.createElement("i"), value = document.createElement("b");
    key.className = `key ${line.color}`;
    value.textContent = this.unit(line.values[index]) + (line.upper ? ` / ${this.unit(line.upper[index])}` : "");
    row.append(key, line.name, value);
    return row;
  }
}

function linearScale(high) {
  const rough = high / 3, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough);
  const top = Math.ceil(high / step) * step;
  const ticks = [];
  for (let tick = 0; tick <= top + step / 2; tick += step) ticks.push(tick);
  return { ticks, place: (value) => value / top };
}

function logScale(low, high) {
  const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high));
  const ticks = [];
  for (let power = from; power <= to; power++) ticks.push(10 ** power);
  return { ticks, place: (value) => (Math.log10(Math.max(value, 10 ** from)) - from) / Math.max(1, to - from) };
}

function make(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
