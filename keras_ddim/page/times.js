// Diffusion times, noise levels, and the hand-designed lists of keras_ddim/times.py.

const count = (n, make) => Array.from({ length: n }, (_, i) => make(i));
const clamp = (value) => Math.min(Math.max(value, 0), 1);

/** A function by its values at points, linear between them. */
function interpolate(points, values, point) {
  let [low, high] = [0, points.length - 1];
  const rises = points[high] > points[low];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle] > point === rises) high = middle;
    else low = middle;
  }
  const part = clamp((point - points[low]) / (points[high] - points[low]));
  return values[low] + part * (values[high] - values[low]);
}

/** A model's schedule: log-SNRs at times from 0 to 1. */
export class Schedule {
  constructor({ diffusion_times, log_snr }) {
    Object.assign(this, { times: diffusion_times, levels: log_snr });
    [this.start, this.end] = [log_snr[0], log_snr.at(-1)];
    // Times are rounded, so that their text stands for the same pictures, but not visibly.
    const fall = (i) => (log_snr[i] - log_snr[i + 1]) / (this.start - this.end);
    const slopes = count(log_snr.length - 1, (i) => fall(i) / (this.times[i + 1] - this.times[i]));
    const steepest = slopes.reduce((a, b) => Math.max(a, b));
    this.digits = Math.min(Math.max(Math.ceil(Math.log10(steepest / 0.004)), 4), 7);
  }

  level(time) {
    return interpolate(this.times, this.levels, time);
  }

  /** Noise from 0 to 1, even in log-SNR: where a time is drawn. */
  height(time) {
    return (this.start - this.level(time)) / (this.start - this.end);
  }

  timeOf(level) {
    return interpolate(this.levels, this.times, level);
  }

  timeAt(height) {
    return this.timeOf(this.start + height * (this.end - this.start));
  }

  /** Times in as many digits as are shown, still falling. */
  round(times) {
    const unit = 10 ** this.digits;
    const whole = times.map((time) => Math.round(time * unit));
    for (let i = whole.length - 2; i >= 0; i--) whole[i] = Math.max(whole[i], whole[i + 1] + 1);
    return whole.map((number) => number / unit);
  }
}

export const LISTS = {
  karras: (n, schedule) => {
    const [first, last] = [schedule.end, schedule.start].map((level) => Math.exp(-level / 14));
    const root = (i) => first + (i / Math.max(n - 1, 1)) * (last - first);
    return count(n, (i) => schedule.timeOf(-14 * Math.log(root(i))));
  },
  log_snr: (n, schedule) => count(n, (i) => schedule.timeAt(1 - i / n)),
  uniform: (n) => count(n, (i) => 1 - i / n),
  quadratic: (n) => count(n, (i) => (1 - i / n) ** 2),
};

/** The same curve with another number of points. */
export function resample(times, n, schedule) {
  if (times.length < 2) return LISTS.log_snr(n, schedule);
  const heights = times.map((time) => schedule.height(time));
  const places = [...heights.keys()];
  const place = (i) => (i / Math.max(n - 1, 1)) * (heights.length - 1);
  return count(n, (i) => schedule.timeAt(interpolate(places, heights, place(i))));
}

/** The list of times in a text, such as a call of `generate`; null if there is none. */
export function parse(text) {
  const list = /\[([^\]]*)\]/.exec(text)?.[1] ?? text;
  const times = list.split(/[\s,]+/).filter(Boolean).map(Number);
  const falls = times.every((time, i) => time >= 0 && time <= 1 && (!i || time < times[i - 1]));
  return falls && times.length ? times : null;
}
