// Runs the network beside the page: one request at a time, each answered with its pictures.

import { normal } from "./noise.js";
import { blend, sample, separate, toPixels } from "./sampler.js";

let model, ort, session;
const known = {}; // what was predicted last, by row
const CLEAN = 30; // as in keras_ddim/sampling.py: the level of clean images, to aim at

/** Loads the runtime, checked against its hashes, and the network. */
async function load(description) {
  model = description;
  const { base, files } = model.runtime;
  const [script, wasm] = await Promise.all(
    Object.entries(files).map(async ([name, integrity]) => {
      const response = await fetch(new URL(name, new URL(base, location)), { integrity });
      if (!response.ok) throw new Error(`${name} could not be loaded (${response.status})`);
      return response.arrayBuffer();
    }),
  );
  const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  ort = await import(address);
  Object.assign(ort.env.wasm, { wasmBinary: wasm, numThreads: 1 });
  session = await ort.InferenceSession.create("model.onnx");
}

async function predict(noisy, [level, next], labels) {
  const size = noisy.length / model.image_shape.reduce((a, b) => a * b);
  const all = (value) => new ort.Tensor("float32", new Float32Array(size).fill(value), [size]);
  const inputs = {
    noisy_images: new ort.Tensor("float32", noisy, [size, ...model.image_shape]),
    log_snr: all(level),
  };
  if (model.inputs.includes("next_log_snr")) inputs.next_log_snr = all(next);
  if (labels) inputs.labels = new ort.Tensor("int32", Int32Array.from(labels), [size]);
  return (await session.run(inputs))[model.output].data;
}

/** Classifier-free guidance, of both predictions in one batch. */
async function guided(noisy, way, labels, scale) {
  if (!labels || scale === 1) return predict(noisy, way, labels);
  const none = labels.map(() => model.class_names.length);
  if (scale === 0) return predict(noisy, way, none);
  const twice = new Float32Array(2 * noisy.length);
  twice.set(noisy);
  twice.set(noisy, noisy.length);
  const both = await predict(twice, way, [...labels, ...none]);
  const [withLabel, without] = [both.slice(0, noisy.length), both.slice(noisy.length)];
  return blend([scale, withLabel], [1 - scale, without]);
}

async function generate({ row, levels, sampler, seed, count, labels, guidance }) {
  // Up to the first level that has changed, everything is as it was.
  const key = JSON.stringify([sampler, seed, count, labels, guidance]);
  const last = known[row]?.key === key ? known[row] : { ways: [], predictions: [] };
  const isAimed = sampler === "ddim" && model.inputs.includes("next_log_snr");
  const ways = levels.map((level, i) => [level, isAimed ? (levels[i + 1] ?? CLEAN) : level]);
  const change = ways.findIndex((way, i) => String(way) !== String(last.ways[i]));
  const predictions = change < 0 ? last.predictions : last.predictions.slice(0, change);
  known[row] = { key, ways, predictions };
  const start = performance.now();
  const computed = Math.max(levels.length - predictions.length, 0);
  const denoise = async (noisy, level, i) => {
    predictions[i] ??= await guided(noisy, ways[i], labels, guidance);
    return separate(noisy, predictions[i], level, model.prediction_type);
  };
  const images = await sample(denoise, normal(seed, count, model.image_shape), levels, sampler);
  const milliseconds = computed ? (performance.now() - start) / computed : 0;
  return { pixels: toPixels(images, model), milliseconds };
}

onmessage = async ({ data }) => {
  try {
    const answer = data.model ? await load(data.model) : await generate(data);
    postMessage({ row: data.row, ...answer }, answer ? [answer.pixels.buffer] : []);
  } catch (error) {
    postMessage({ row: data.row, error: error.message });
  }
};
