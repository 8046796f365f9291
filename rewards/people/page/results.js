// What the choices say so far, read anew every few seconds.

const $ = (id) => document.getElementById(id);
const EVERY = 5000; // ms

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const percent = (share) => `${Math.round(100 * share)} %`;
const known = (value, text) => (value === undefined ? "–" : text(value));

function rate(row) {
  const interval = make("i"), dot = make("u");
  interval.style.left = `${100 * row.low}%`;
  interval.style.width = `${100 * (row.high - row.low)}%`;
  dot.style.left = `${100 * row.rate}%`;
  return make("div", { className: "rate" }, make("b", { textContent: row.model }),
    make("div", { className: "scale", ariaHidden: "true" }, interval, dot), make("span", { textContent: percent(row.rate) }),
    make("small", { textContent: `${percent(row.low)} to ${percent(row.high)}, ${row.choices} choices` }));
}

function show(found) {
  $("lead").textContent = found.choices ? `${found.choices} choices so far.` : "Nobody has chosen yet.";
  $("rates").replaceChildren(...found.win_rates.map((table) => make("section", {},
    make("h2", { textContent: table.words || "Win rates" }), ...table.models.map(rate),
    make("p", { className: "note", textContent: "How often each one wins against the others, ties as half, with "
      + "intervals of 95 % (Bradley and Terry, Luce)." }))));
  $("agreement").hidden = found.alpha === undefined;
  $("alpha").textContent = `Krippendorff's alpha is ${known(found.alpha, (alpha) => alpha.toFixed(3))}: `
    + "1 where all who saw the same pictures agree, 0 where they agree as often as by chance.";
  $("raters").hidden = !found.raters.length;
  $("rows").replaceChildren(...found.raters.map((row) => make("tr", {}, ...[
    row.rater, row.choices, row.tie, row.both_bad, known(row.left, percent),
    row.again ? `${row.same} of ${row.again}` : "–", known(row.seconds, (seconds) => seconds.toFixed(1)),
  ].map((text) => make("td", { textContent: text })))));
}

async function look() {
  try {
    const response = await fetch("/api/results");
    const found = await response.json();
    if (response.ok) show(found);
    else $("lead").textContent = found.error;
  } catch {
    $("lead").textContent = "The server does not answer; this is what it said last.";
  }
  setTimeout(look, EVERY);
}

look();
