"use strict";
// Tables: sorted by the buttons of their heads, filtered, and turned over page by page. Nothing here
// makes markup of text. At once, before the first row is shown: rows of later pages stay hidden.
document.documentElement.classList.add("js");
document.addEventListener("DOMContentLoaded", () => {
  for (const whole of document.querySelectorAll(".tabular")) serve(whole);
  for (const map of document.querySelectorAll(".map")) look(map);
  // what is printed shows the table of layers too
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });
});

function serve(whole) {
  const find = (name) => whole.querySelector(name);
  const body = find("tbody"), heads = [...whole.querySelectorAll("thead th")];
  const perPage = Number(whole.dataset.rows);
  const rows = [...body.rows].map((row, place) => ({
    row, place, name: row.querySelector("th bdi").textContent.toLowerCase(),
    size: row.dataset.p === undefined ? NaN : Number(row.dataset.p),
    keys: [...row.cells].map(key),
  }));
  let page = 0;

  function show() {
    const text = find(".by-name").value.trim().toLowerCase();
    const most = find(".by-size").value === "" ? NaN : 1e6 * Number(find(".by-size").value);
    const kind = find(".by-kind").value;
    const wanted = [["license", find(".by-license")], ["family", find(".by-family")]]
      .filter(([, chosen]) => chosen !== null && chosen.value !== "");
    const there = rows.filter((one) => one.name.includes(text) &&
      (Number.isNaN(most) || one.size <= most) && (kind === "" || kind in one.row.dataset) &&
      wanted.every(([name, chosen]) => one.row.dataset[name] === chosen.value));
    page = Math.max(0, Math.min(page, Math.ceil(there.length / perPage) - 1));
    for (const one of rows) one.row.classList.add("out");
    there.forEach((one, place) => {
      one.row.classList.remove("out");
      one.row.classList.toggle("later", Math.floor(place / perPage) !== page);
    });
    const first = page * perPage, last = Math.min(first + perPage, there.length);
    const of = there.length === rows.length ? "" : ` (${rows.length} in all)`;
    find(".place").value = there.length === 0 ? "none" :
      `${first + 1} to ${last} of ${there.length}${of}`;
    find(".back").disabled = page === 0;
    find(".on").disabled = last >= there.length;
  }

  function sort(column) {
    const head = heads[column], before = head.getAttribute("aria-sort");
    const falls = before === null ? head.hasAttribute("data-falling") : before === "ascending";
    for (const one of heads) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    rows.sort((one, other) => compare(one.keys[column], other.keys[column], falls) ||
      one.place - other.place);
    body.append(...rows.map((one) => one.row));
    page = 0;
    show();
  }

  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sort(column));
  });
  for (const one of whole.querySelectorAll("input, select"))
    one.addEventListener("input", () => { page = 0; show(); });
  find(".controls").addEventListener("submit", (event) => event.preventDefault());
  find(".back").addEventListener("click", () => { page -= 1; show(); });
  find(".on").addEventListener("click", () => { page += 1; show(); });
  show();
}

// Samples: the one that is pointed at, or come to by the arrow keys, is shown below the map.
function look(map) {
  const points = [...map.querySelectorAll("[data-s]")], panel = map.querySelector(".look");
  const kept = map.closest("section").querySelector(".kept").children;
  let at = -1;

  function show(place) {
    if (at >= 0) points[at].classList.remove("at");
    at = place;
    const point = points[at], label = document.createElement("b");
    point.classList.add("at");
    label.textContent = point.dataset.said;
    const copies = [...kept[Number(point.dataset.s)].childNodes].map((one) => one.cloneNode(true));
    panel.replaceChildren(label, ...copies);
  }

  points.forEach((point, place) => {
    point.addEventListener("pointerenter", () => show(place));
    point.addEventListener("click", () => show(place));
  });
  map.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined || points.length === 0) return;
    event.preventDefault();
    show((at + step + points.length) % points.length);
  });
}

// What a cell is sorted by: its number, or its text.
function key(cell) {
  const text = cell.textContent.trim();
  if (cell.tagName === "TH") return text.toLowerCase();
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  if (text === "") return null;
  return Number.isNaN(Number(text)) ? text.toLowerCase() : Number(text);
}

// Cells without a value come last, in both directions.
function compare(one, other, falls) {
  if (one === null || other === null) return (one === null) - (other === null);
  const order = typeof one === typeof other ? (one < other ? -1 : one > other ? 1 : 0) :
    typeof one === "number" ? -1 : 1;
  return falls ? -order : order;
}
