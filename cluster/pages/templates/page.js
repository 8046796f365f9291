// Puts the sheets into their cells, and moves the sliders. Nothing is fetched: all of it is in the page.

const sprites = JSON.parse(document.getElementById("sprites").textContent);

// Each sheet once in memory, however many cells look at it.
function blobOf(source) {
  const [head, data] = source.split(",");
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: head.slice(5).split(";")[0] }));
}

const urls = {};
for (const [split, sources] of Object.entries(sprites)) urls[split] = sources.map(blobOf);
for (const image of document.querySelectorAll("img[data-split]")) image.src = urls[image.dataset.split][image.dataset.sheet];

for (const section of document.querySelectorAll("section.pictures")) {
  const cut = section.querySelector(".cut"), time = section.querySelector(".time"), said = section.querySelector("output");
  if (!cut) continue;
  const iterations = said.dataset.iterations.split(" ");
  const show = () => {
    section.style.setProperty("--cut", `${100 - cut.value}%`);
    const now = time ? Number(time.value) : iterations.length - 1;
    for (const image of section.querySelectorAll(".after img")) {
      if (image.dataset.sheet !== String(now)) {
        image.dataset.sheet = now;
        image.src = urls[image.dataset.split][now];
      }
    }
    said.textContent = `iteration ${iterations[0]} | ${iterations[now]}`;
  };
  for (const slider of [cut, time]) slider?.addEventListener("input", show);
  show();
}

for (const choice of document.querySelectorAll(".switch input")) {
  choice.addEventListener("change", () => {
    for (const part of document.querySelectorAll(`[data-switch="${choice.name}"]`)) part.hidden = part.dataset.value !== choice.value;
  });
}

// Values under the pointer, read back from the curves themselves.
const SVG = "http://www.w3.org/2000/svg";
const said = (value) => (value === 0 ? "0" : Math.abs(value) >= 0.01 && Math.abs(value) < 1e6 ? value.toFixed(3).replace(/\.?0+$/, "") : value.toPrecision(3));

for (const chart of document.querySelectorAll("svg.chart[data-x]")) {
  const [x0, x1, left, right] = chart.dataset.x.split(" ").map(Number);
  const [y0, y1, bottom, top, log] = chart.dataset.y.split(" ").map(Number);
  const toX = (px) => x0 + ((px - left) / (right - left)) * (x1 - x0);
  const toY = (px) => {
    const share = (px - bottom) / (top - bottom);
    return log ? y0 * (y1 / y0) ** share : y0 + share * (y1 - y0);
  };
  const curves = [...chart.querySelectorAll("polyline[data-name]")].map((line) => ({
    name: line.dataset.name, colour: line.classList[0],
    points: line.getAttribute("points").split(" ").map((point) => point.split(",").map(Number)),
  }));
  if (!curves.length) continue;
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  const cursor = document.createElementNS(SVG, "line");
  cursor.classList.add("cursor");
  chart.parentElement.append(tip);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect(), px = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    const nearest = (points) => points.reduce((a, b) => (Math.abs(b[0] - px) < Math.abs(a[0] - px) ? b : a));
    const found = curves.map((curve) => ({ ...curve, at: nearest(curve.points) }));
    const at = nearest(found.map((one) => one.at))[0];
    for (const [name, value] of Object.entries({ x1: at, x2: at, y1: top, y2: bottom })) cursor.setAttribute(name, value);
    if (!cursor.isConnected) chart.append(cursor);
    tip.replaceChildren(said(toX(at)), ...found.filter((one) => Math.abs(one.at[0] - at) < 2).map((one) => {
      const row = document.createElement("div"), name = document.createElement("b");
      name.className = one.colour;
      name.textContent = said(toY(one.at[1]));
      row.append(name, ` ${one.name}`);
      return row;
    }));
    tip.hidden = false;
    const panel = chart.parentElement.getBoundingClientRect();
    const x = event.clientX - panel.left;
    tip.style.left = `${Math.min(x + 14, panel.width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.max(4, event.clientY - panel.top - tip.offsetHeight - 14)}px`;
  });
  chart.addEventListener("pointerleave", () => {
    tip.hidden = true;
    cursor.remove();
  });
}
