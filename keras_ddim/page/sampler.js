// The loop over noise levels, with DDIM and UniPC of order 2 as in keras_ddim/samplers.py.
// Levels are log-SNRs; images are flat Float32Arrays in the normalised space.

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** `[noise rate, signal rate]` of a level. */
export const rates = (level) => [Math.sqrt(sigmoid(-level)), Math.sqrt(sigmoid(level))];

/** `Σ weight · values`, for pairs of a weight and an array. */
export function blend(...pairs) {
  const sum = new Float32Array(pairs[0][1].length);
  for (let i = 0; i < sum.length; i++) {
    let value = 0;
    for (const [weight, values] of pairs) value += weight * values[i];
    sum[i] = value;
  }
  return sum;
}

/** The noises and the images that noisy images consist of, by the network's prediction. */
export function separate(noisy, prediction, level, predictionType) {
  const [noise, signal] = rates(level);
  const sum = noise + signal;
  // Weights of the noisy images and of the prediction.
  const weights = {
    noise: { noises: [0, 1], images: [1 / signal, -noise / signal] },
    image: { noises: [1 / noise, -signal / noise], images: [0, 1] },
    velocity: { noises: [noise, signal], images: [signal, -noise] },
    flow: { noises: [1 / sum, signal / sum], images: [1 / sum, -noise / sum] },
  }[predictionType];
  const part = ([own, predicted]) => blend([own, noisy], [predicted, prediction]);
  return { noises: part(weights.noises), images: part(weights.images) };
}

/** Mixes what was separated again, at the next level. */
export function ddim() {
  return (noisy, level, next, { noises, images }) => {
    const [noise, signal] = rates(next);
    return blend([signal, images], [noise, noises]);
  };
}

/**
 * Predicts by a line through the last two images; once the image at the new level is known, takes
 * the last step again by a parabola through three.
 */
export function unipc() {
  let history = []; // the last predictions, the latest first
  let start = null; // what the last step started from
  return (noisy, level, next, { images }) => {
    const known = [{ level, images }, ...history];
    if (history.length) noisy = integrate(start, history[0].level, level, known);
    history = known.slice(0, 2);
    start = noisy;
    // In long steps, a line overshoots.
    const isLong = history.length > 1 && (next - level) ** 2 > 16 * (level - history[1].level);
    return integrate(noisy, level, next, isLong ? history.slice(0, 1) : history);
  };
}

/** `s'/s noisy + s' ∫ exp(l) P(l) dl` from level / 2 to next / 2, P through the points. */
function integrate(noisy, level, next, points) {
  const [noise] = rates(level);
  const [nextNoise, nextSignal] = rates(next);
  const h = (next - level) / 2;
  const nodes = points.map((point) => (point.level - level) / (next - level));
  // The moments ∫ h exp(h (p − 1)) pᵏ dp from 0 to 1.
  const total = -Math.expm1(-h);
  const first = 1 - total / h;
  const second = 1 - (2 * first) / h;
  let weights = [total];
  // A line counts by its value half-way, B(h) / 2 of the paper.
  if (nodes.length === 2) {
    const slope = (0.5 - nodes[0]) / (nodes[1] - nodes[0]);
    weights = [total * (1 - slope), total * slope];
  } else if (nodes.length === 3) {
    weights = nodes.map((node, i) => {
      const [a, b] = nodes.filter((_, j) => j !== i);
      return (second - (a + b) * first + a * b * total) / ((node - a) * (node - b));
    });
  }
  const terms = points.map(({ images }, i) => [nextSignal * weights[i], images]);
  return blend([nextNoise / noise, noisy], ...terms);
}

/**
 * The images at the end of a list of levels that starts from noise.
 * `denoise(noisy, level, step)` resolves to `{ noises, images }`.
 */
export async function sample(denoise, noisy, levels, sampler) {
  const step = { ddim, unipc }[sampler]();
  for (const [i, level] of levels.entries()) {
    const separated = await denoise(noisy, level, i);
    if (i + 1 === levels.length) return separated.images;
    noisy = step(noisy, level, levels[i + 1], separated);
  }
}

/** Normalised images as 8-bit RGBA. */
export function toPixels(images, { mean, deviation }) {
  const channels = mean.length;
  const rgba = new Uint8ClampedArray((images.length / channels) * 4).fill(255);
  images.forEach((value, i) => {
    const [pixel, channel] = [4 * Math.floor(i / channels), i % channels];
    const byte = 255 * (mean[channel] + deviation[channel] * value); // clamped and rounded
    if (channels < 3) rgba.fill(byte, pixel, pixel + 3);
    else rgba[pixel + channel] = byte;
  });
  return rgba;
}
