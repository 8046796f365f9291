// The page where people choose. A choice is sent, and only when the server has it on its disk is the next one shown.

const $ = (id) => document.getElementById(id);
const TIE = "tie", BOTH_BAD = "both_bad";
const RETRY = 1000, LOOK = 3000; // ms
const upright = matchMedia("(max-width: 40rem) and (orientation: portrait)");

let rater = localStorage.getItem("reinoise-rater");
let showing = null; // what is on the screen
let stages = new Map(); // by showing: its element, its loading, and the id of the choice made in it
let last = null; // id of the rater's last choice
let busy = true; // until something can be chosen
let since = 0; // when the showing came up

const keyOf = (one) => `${one.question}/${one.round}`;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Letters and digits; crypto.randomUUID is there over TLS and on this machine alone.
const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0"))
  .join("");

function placeNames(one) {
  if (one.places.length > 2) return one.places.map((_, index) => `Set ${index + 1}`);
  return upright.matches ? ["Upper", "Lower"] : ["Left", "Right"];
}

function say(text, more = "", trouble = false) {
  $("status").classList.toggle("trouble", trouble);
  $("status").replaceChildren(text, make("span", { textContent: more }));
}

// ---- the server

// The answer of the server, however long it takes: what is sent has an id, and counts once.
async function ask(path, body) {
  for (;;) {
    try {
      const response = await fetch(path, body && {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
      });
      return { ok: response.ok, status: response.status, ...(await response.json()) };
    } catch {
      say(body ? "The server does not answer. Your choice is not saved yet; it is sent again until it is."
        : "The server does not answer; trying again …", "", true);
      await new Promise((done) => setTimeout(done, RETRY));
    }
  }
}

const next = () => ask(`/api/next?rater=${encodeURIComponent(rater)}`);

// ---- what is shown

// Everything of a showing, loaded and decoded before it is on the screen.
function stage(one) {
  if (!stages.has(keyOf(one))) {
    const loading = [];
    const places = one.places.map((names, index) => {
      const side = Math.ceil(Math.sqrt(names.length));
      const frame = make("div", { className: "frame" });
      frame.style.gridTemplateColumns = `repeat(${side}, minmax(0, 1fr))`;
      frame.style.gridTemplateRows = `repeat(${Math.ceil(names.length / side)}, minmax(0, 1fr))`;
      for (const name of names) {
        const image = make("img", { draggable: false, src: `/pictures/${encodeURIComponent(name)}` });
        loading.push(image.decode().then(() => image.classList.toggle("small", image.naturalWidth <= 160), () => {}));
        frame.append(make("div", { className: "window" }, image));
      }
      frame.addEventListener("click", () => zoomed() || choose(index));
      return make("figure", { className: "place" }, frame, make("figcaption"));
    });
    stages.set(keyOf(one), { places, id: newId(), loaded: Promise.all(loading) });
  }
  return stages.get(keyOf(one));
}

function label(one) {
  const names = placeNames(one);
  stage(one).places.forEach((place, index) => {
    place.lastChild.textContent = names[index];
    const images = place.querySelectorAll("img");
    images.forEach((image, number) => {
      image.alt = images.length > 1 ? `${names[index]}, picture ${number + 1}` : `${names[index]} picture`;
    });
  });
  const keys = names.length > 2 ? names.map((_, index) => `${index + 1}`) : ["←", "→"];
  const options = names.map((name, index) => [index, keys[index], name]);
  const neither = [[TIE, "↑", one.words ? "No difference" : "Tie"], ...(one.words ? [] : [[BOTH_BAD, "↓", "Both bad"]])];
  options.splice(names.length > 2 ? names.length : 1, 0, ...neither);
  const shape = JSON.stringify(options);
  if ($("choices").dataset.shape === shape) return; // so that the focus stays where it is
  $("choices").dataset.shape = shape;
  $("choices").classList.toggle("two", options.length === 4 && names.length === 2);
  $("choices").replaceChildren(...options.map(([choice, key, name]) => make("button", {
    type: "button", className: typeof choice === "number" ? "place-choice" : "", onclick: () => choose(choice),
  }, make("kbd", { textContent: key, ariaHidden: "true" }), name)));
  const words = [...options.map(([, key, name]) => [key, name]), ["U", "Undo the last choice"],
    ["Z", "Zoom, all pictures in step"], ["Shift ←↑→↓", "Look around in them, as the mouse does"], ["?", "This list"]];
  $("keys").replaceChildren(...words.flatMap(([key, name]) => [
    make("dt", {}, make("kbd", { textContent: key })), make("dd", { textContent: name })]));
}

async function show(state, said, pressed) {
  const [now = null, ...after] = state.showings;
  stages = new Map([...stages].filter(([key]) => state.showings.some((one) => keyOf(one) === key)));
  const ready = now && stage(now);
  await ready?.loaded; // so that all of it changes at once
  last = state.last;
  $("who").textContent = rater;
  const all = state.done + state.left;
  $("count").textContent = `${state.done} of ${all}`;
  $("bar").style.width = `${all ? 100 * state.done / all : 100}%`;
  $("progress").setAttribute("aria-valuemax", all);
  $("progress").setAttribute("aria-valuenow", state.done);
  $("undo").disabled = !last;
  for (const id of ["room", "choices", "zoom", "asked", "prompt"]) $(id).hidden = !now;
  $("rest").hidden = Boolean(now);
  showing = now;
  if (!now) return rest(state, said);
  for (const place of ready.places) place.classList.remove("chosen");
  $("asked").textContent = now.words || "Which picture is better?";
  $("prompt").textContent = now.prompt;
  document.title = $("asked").textContent;
  label(now);
  const first = ready.places[0].querySelector("img");
  const side = Math.ceil(Math.sqrt(now.places[0].length)), rows = Math.ceil(now.places[0].length / side);
  $("places").style.setProperty("--shape", (first.naturalWidth / first.naturalHeight || 1) * side / rows);
  $("places").replaceChildren(...ready.places);
  say(said, ` ${$("asked").textContent} ${state.done + 1} of ${all}: ${now.prompt}`);
  since = performance.now();
  busy = false;
  after.forEach(stage);
  if (pressed !== undefined) requestAnimationFrame((end) => performance.measure("choice", { start: pressed, end }));
}

function rest(state, said) {
  $("rest-title").textContent = state.done ? "That was all. Thank you!" : "There is nothing to choose yet.";
  $("rest-text").textContent = state.done ? `${state.done} choices are saved. If more pictures come, they show up here.`
    : "When pictures come, they show up here.";
  say(said, $("rest-title").textContent);
  busy = false;
  const asked = rater;
  setTimeout(async () => {
    if (showing || busy || asked !== rater) return;
    const state = await next();
    if (!showing && !busy && asked === rater && state.ok) show(state, "");
  }, LOOK);
}

async function begin(said = "") {
  busy = true;
  const state = await next();
  if (state.ok) return show(state, said);
  say(state.error, "", true);
  busy = false;
}

// ---- what a rater does

async function choose(choice, pressed = performance.now()) {
  if (busy || !showing) return;
  busy = true;
  const one = showing, { places, id } = stage(one);
  if (typeof choice === "number") places[choice].classList.add("chosen");
  const seconds = (pressed - since) / 1000;
  const state = await ask("/api/choose", {
    id, rater, question: one.question, round: one.round, places: one.places, choice, seconds,
  });
  const name = { [TIE]: one.words ? "No difference" : "Tie", [BOTH_BAD]: "Both bad" }[choice] ?? placeNames(one)[choice];
  if (state.ok) return show(state, `Saved: ${name}.`, pressed);
  for (const place of places) place.classList.remove("chosen");
  if (state.status === 409) return begin(state.error);
  say(state.error, "", true);
  busy = false;
}

async function undo() {
  if (busy || !last) return;
  busy = true;
  const state = await ask("/api/undo", { id: last, rater });
  stages.clear(); // what is chosen anew is another choice
  if (state.ok) return show(state, "Undone; choose again.");
  if (state.status === 409) return begin(state.error);
  say(state.error, "", true);
  busy = false;
}

const zoomed = () => $("places").classList.contains("zoomed");

function zoom() {
  $("places").classList.toggle("zoomed");
  $("zoom").setAttribute("aria-pressed", zoomed());
}

// Where all pictures are looked at, from 0 to 1 of their width and height.
function look(x, y) {
  for (const [name, value] of [["x", x], ["y", y]]) {
    $("places").dataset[name] = Math.min(1, Math.max(0, value));
    $("places").style.setProperty(`--${name}`, `${100 * $("places").dataset[name]}%`);
  }
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
  const arrow = ARROWS[event.key];
  if (event.key === "?") $("keys-dialog").showModal();
  else if (event.key.toLowerCase() === "u") undo();
  else if (event.key.toLowerCase() === "z") zoom();
  else if (!showing) return;
  else if (arrow && event.shiftKey) {
    const { x = 0.5, y = 0.5 } = $("places").dataset;
    look(Number(x) + arrow[0] / 8, Number(y) + arrow[1] / 8);
  } else if (arrow && arrow[0]) {
    if (showing.places.length > 2) return;
    choose(arrow[0] < 0 ? 0 : 1, event.timeStamp);
  } else if (event.key === "ArrowUp") choose(TIE, event.timeStamp);
  else if (event.key === "ArrowDown" && !showing.words) choose(BOTH_BAD, event.timeStamp);
  else if (event.key >= "1" && Number(event.key) <= showing.places.length) choose(Number(event.key) - 1, event.timeStamp);
  else return;
  event.preventDefault();
}

addEventListener("keydown", press);
$("places").addEventListener("pointermove", (event) => {
  const window = event.target.closest(".window")?.getBoundingClientRect();
  if (window) look((event.clientX - window.left) / window.width, (event.clientY - window.top) / window.height);
});
$("undo").addEventListener("click", undo);
$("zoom").addEventListener("click", zoom);
$("help").addEventListener("click", () => $("keys-dialog").showModal());
upright.addEventListener("change", () => showing && label(showing));

$("who").addEventListener("click", () => {
  $("name").value = rater ?? "";
  $("name-dialog").showModal();
});
$("name-dialog").addEventListener("cancel", (event) => rater || event.preventDefault());
$("name-form").addEventListener("submit", () => {
  rater = $("name").value.trim().replace(/\s+/g, " ");
  localStorage.setItem("reinoise-rater", rater);
  stages.clear();
  begin();
});
if (rater) begin();
else $("name-dialog").showModal();
