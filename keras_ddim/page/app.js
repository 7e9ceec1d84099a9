// The page: the state, and how address, form, curve and pictures follow it.

import { Curve } from "./curve.js";
import { normal } from "./noise.js";
import { toPixels } from "./sampler.js";
import { LISTS, Schedule, parse, resample } from "./times.js";

const COUNT = 8; // pictures
const SAMPLERS = ["unipc", "ddim"];
const NAMES = { unipc: "UniPC", ddim: "DDIM", karras: "Karras", log_snr: "Even in log-SNR" };
Object.assign(NAMES, { uniform: "Even in time", quadratic: "Quadratic in time" });
const byId = (id) => document.getElementById(id);
const model = await (await fetch("model.json")).json();
const schedule = new Schedule(model);
const classes = model.class_names ?? [];
const [height, width] = model.image_shape;

// `times` are of a named shape, or bent by hand. What is frozen has times, sampler and guidance of
// its own, and shares noise and labels.
const state = { shape: "hand", times: [], sampler: "unipc", seed: 0, label: "", guidance: 1 };
let frozen = null;

const optimized = () => model.times[state.sampler];
const heights = (times) => times.map((time) => schedule.height(time));

function setShape(name, steps = state.times.length) {
  const levels = optimized()[name];
  const shape = levels || LISTS[name] ? name : "hand";
  const times =
    levels?.map((level) => schedule.timeOf(level)) ??
    LISTS[name]?.(steps, schedule) ??
    resample(state.times, steps, schedule);
  Object.assign(state, { shape, times: schedule.round(times) });
}

// Address

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const choice = (name, from) => (from.includes(given.get(name)) ? given.get(name) : from[0]);
  const number = (name, high, otherwise) => {
    const value = given.has(name) ? Number(given.get(name)) : NaN;
    return value >= 0 && value <= high ? value : otherwise;
  };
  const isDistilled = model.inputs.includes("next_log_snr"); // to few steps of DDIM
  state.sampler = choice("sampler", isDistilled ? SAMPLERS.toReversed() : SAMPLERS);
  state.seed = Math.floor(number("seed", 2 ** 32 - 1, 0));
  state.label = choice("label", ["", ...classes]);
  state.guidance = number("guidance", 5, model.guidance_scale);
  const sizes = Object.entries(optimized()).map(([name, levels]) => [levels.length, name]);
  const best = sizes.filter(([size]) => size <= 8).sort(([a], [b]) => b - a)[0]?.[1];
  const otherwise = isDistilled ? "uniform" : "karras";
  const shapes = [...Object.keys(LISTS), ...Object.keys(optimized())];
  setShape(choice("shape", [best ?? otherwise, ...shapes]), isDistilled ? 2 : 8);
  const times = parse(given.get("times") ?? "");
  if (times && String(times) !== String(state.times)) Object.assign(state, { shape: "hand", times });
  const kept = parse(given.get("frozen") ?? "");
  frozen = kept && { times: kept, sampler: choice("frozen-sampler", SAMPLERS) };
  if (frozen) frozen.guidance = number("frozen-guidance", 5, model.guidance_scale);
}

function writeAddress() {
  const given = new URLSearchParams(state);
  for (const [name, value] of Object.entries(frozen ?? {}))
    given.set(name === "times" ? "frozen" : `frozen-${name}`, value);
  for (const name of ["label", "guidance", "frozen-guidance"])
    if (!classes.length) given.delete(name);
  history.replaceState(null, "", `#${given}`.replaceAll("%2C", ",").replaceAll("%3A", ":"));
}

// Pictures: those being drawn are finished first, then the newest times are.

const worker = new Worker("worker.js", { type: "module" });
const wanted = new Map(); // what is to be drawn next, by row
let isBusy = true; // until the model is there
let addressTimer = null;

function want(row, { times, sampler, guidance }) {
  const levels = times.map((time) => schedule.level(time));
  const labels = classes.length ? Array.from({ length: COUNT }, (_, i) => labelOf(i)) : null;
  wanted.set(row, { row, levels, sampler, guidance, labels, seed: state.seed, count: COUNT });
  drawNext();
}

/** The class of a picture: the chosen one, or one of each in turn. */
const labelOf = (i) => (state.label ? classes.indexOf(state.label) : i % classes.length);

function drawNext() {
  const [next] = wanted.values();
  if (next && !isBusy) {
    wanted.delete(next.row);
    worker.postMessage(next);
    isBusy = true;
  }
  byId("pictures").ariaBusy = isBusy || addressTimer !== null;
}

worker.onmessage = ({ data }) => {
  isBusy = false;
  if (data.error) byId("status").textContent = `No pictures: ${data.error}.`;
  if (data.pixels) draw(data);
  drawNext();
};
worker.onerror = () => (byId("status").textContent = "This browser cannot run the model.");
worker.postMessage({ model });

function canvases(row) {
  while (byId(row).children.length < COUNT)
    byId(row).append(Object.assign(document.createElement("canvas"), { width, height }));
  return [...byId(row).children];
}

function draw({ row, pixels, milliseconds }) {
  const size = 4 * height * width;
  canvases(row).forEach((canvas, i) => {
    const image = new ImageData(pixels.slice(i * size, (i + 1) * size), width, height);
    canvas.getContext("2d").putImageData(image, 0, 0);
  });
  if (milliseconds !== undefined) performance.mark(row);
  if (row === "live" && milliseconds)
    byId("status").textContent =
      `${state.times.length} evaluations of the network, ${Math.round(milliseconds)} ms each`;
}

// Form and curve

function describe(height) {
  const [time] = schedule.round([schedule.timeAt(height)]);
  return `time ${time}, ${Math.round(100 / (1 + Math.exp(schedule.level(time))))} % noise`;
}

const curve = new Curve(byId("curve"), describe, (heights) => {
  const times = schedule.round(heights.map((height) => schedule.timeAt(height)));
  update({ shape: "hand", times }, heights);
});

/** The call of `generate` that makes the same pictures. */
function code() {
  const options = [`sampler="${state.sampler}"`, `seed=${state.seed}`];
  const each = Array.from({ length: COUNT }, (_, i) => classes[labelOf(i)]);
  const labels = JSON.stringify(state.label || each).replaceAll(",", ", ");
  if (classes.length) options.push(`labels=${labels}`);
  if (state.guidance !== 1) options.push(`guidance_scale=${state.guidance}`);
  return `model.generate(${COUNT}, [${state.times.join(", ")}], ${options.join(", ")})`;
}

function showShapes() {
  const groups = { "Optimized for this model": Object.keys(optimized()) };
  groups["Hand-designed"] = Object.keys(LISTS);
  const elements = Object.entries(groups).map(([label, names]) => {
    const group = Object.assign(document.createElement("optgroup"), { label });
    group.append(...names.map((name) => new Option(NAMES[name] ?? name, name)));
    return group;
  });
  byId("shape").replaceChildren(...elements, new Option("Bent by hand", "hand"));
}

/** Changes the state, and has it shown. `moving` are the heights of points on their way. */
function update(changes, moving) {
  Object.assign(state, changes);
  showShapes();
  const { times, ...values } = { ...state, steps: state.times.length, code: code(), message: "" };
  byId("steps").max = Math.max(20, times.length);
  for (const [id, value] of Object.entries(values)) byId(id).value = value;
  byId("steps-value").value = times.length;
  byId("guidance-value").value = state.guidance;
  byId("code").ariaInvalid = false;
  curve.show(moving ?? heights(times), frozen ? heights(frozen.times) : []);
  byId("freeze").textContent = frozen ? "Unfreeze" : "Freeze";
  byId("frozen-figure").hidden = !frozen;
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => {
    writeAddress();
    addressTimer = null;
    drawNext();
  }, 200);
  want("live", state);
  if (!frozen) return;
  canvases("frozen");
  byId("frozen-caption").textContent =
    `Frozen: ${frozen.times.length} evaluations, ${NAMES[frozen.sampler]}`;
  want("frozen", frozen);
}

const on = (id, event, change) =>
  byId(id).addEventListener(event, ({ target }) => update(change(target)));

on("shape", "change", ({ value }) => setShape(value));
on("steps", "input", ({ value }) => setShape(LISTS[state.shape] ? state.shape : "hand", +value));
on("sampler", "change", ({ value }) => {
  state.sampler = value;
  if (!LISTS[state.shape]) setShape(state.shape);
});
on("seed", "change", ({ value }) => ({ seed: Math.floor(Math.abs(value)) % 2 ** 32 }));
on("new", "click", () => ({ seed: Math.floor(Math.random() * 1e6) }));
on("label", "change", ({ value }) => ({ label: value }));
on("guidance", "input", ({ value }) => ({ guidance: +value }));
on("freeze", "click", () => {
  const { times, sampler, guidance } = state;
  frozen = frozen ? null : { times, sampler, guidance };
});
byId("add").addEventListener("click", () => curve.add());
byId("remove").addEventListener("click", () => curve.remove());
addEventListener("hashchange", () => (readAddress(), update()));

byId("code").addEventListener("input", ({ target }) => {
  const [times, text, place] = [parse(target.value), target.value, target.selectionStart];
  if (times) update({ shape: "hand", times });
  Object.assign(target, { value: text, selectionStart: place, selectionEnd: place });
  target.ariaInvalid = !times;
  byId("message").value = times ? "" : "Times fall from 1 to 0, such as 1, 0.8, 0.5, 0.2.";
});
byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(code());
  byId("message").value = "Copied.";
});
byId("save").addEventListener("click", async () => {
  const pictures = [...canvases("live"), ...(frozen ? canvases("frozen") : [])];
  const sheet = new OffscreenCanvas(width * COUNT, (height * pictures.length) / COUNT);
  pictures.forEach((picture, i) => {
    const [x, y] = [(i % COUNT) * width, Math.floor(i / COUNT) * height];
    sheet.getContext("2d").drawImage(picture, x, y);
  });
  const href = URL.createObjectURL(await sheet.convertToBlob());
  const download = `${model.title}-${state.seed}.png`;
  Object.assign(document.createElement("a"), { href, download }).click();
  URL.revokeObjectURL(href);
});

document.title = `${model.title}: ${document.title}`;
byId("sampler").append(...SAMPLERS.map((name) => new Option(NAMES[name], name)));
byId("label").append(new Option("One of each", ""), ...classes.map((name) => new Option(name)));
byId("label").parentElement.hidden = !classes.length;
byId("guidance").parentElement.hidden = !classes.length || !model.is_unconditional;
readAddress();
// The noise that pictures are made of, until they are there.
draw({ row: "live", pixels: toPixels(normal(state.seed, COUNT, model.image_shape), model) });
update();
