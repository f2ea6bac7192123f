// How numbers and times are written; the same as the server writes them.
"use strict";

const format = {
  latency(us) {
    if (us === null || us === undefined) return "–";
    if (us < 1000) return `${Math.round(us)} µs`;
    return us < 1e6 ? `${Number((us / 1000).toPrecision(3))} ms` : `${Number((us / 1e6).toPrecision(3))} s`;
  },
  rate(value) {
    if (value === null || value === undefined) return "–";
    return value >= 100 ? String(Math.round(value)) : String(Number(value.toFixed(1)));
  },
  score(value) {
    return value === null ? "" : String(Number(Number(value).toPrecision(3)));
  },
  clock(seconds, withSeconds = true) {
    const options = { hour: "2-digit", minute: "2-digit", hour12: false };
    if (withSeconds) options.second = "2-digit";
    return new Date(seconds * 1000).toLocaleTimeString([], options);
  },
  // Near times as what an operator asks for ("how long ago"), others as a date.
  ago(seconds) {
    const past = Date.now() / 1000 - seconds;
    if (past > -5 && past < 1.5) return "now";
    if (past > 0 && past < 60) return `${Math.floor(past)} s ago`;
    if (past > 0 && past < 3600) return `${Math.floor(past / 60)} min ago`;
    if (past > 0 && past < 86400) return `${Math.floor(past / 3600)} h ago`;
    const date = new Date(seconds * 1000);
    return Number.isNaN(date.getTime()) ? "an impossible time" : date.toLocaleString();
  },
};
