// Standard normal noise, image i from `numpy.random.default_rng([seed, i])`: that of `generate`.

const MASK = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;

/** NumPy's SeedSequence: two integers below 2³² to the state of a generator. */
function seedWords(...entropy) {
  let constant = 0x43b0d7e5;
  const fold = (value) => value ^ (value >>> 16);
  const hash = (value, multiplier) => {
    const mixed = value ^ constant;
    constant = Math.imul(constant, multiplier);
    return fold(Math.imul(mixed, constant));
  };
  const mix = (x, y) => fold(Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y));
  const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0, 0x931e8875));
  for (let from = 0; from < 4; from++)
    for (let to = 0; to < 4; to++)
      if (from !== to) pool[to] = mix(pool[to], hash(pool[from], 0x931e8875));
  constant = 0x8b51f9dd;
  const words = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => hash(pool[i % 4], 0x58f38ded) >>> 0);
  // Little-endian pairs of 32 bits; of two pairs, the first is the higher.
  const join = (i) => (BigInt(words[i + 1]) << 32n) | BigInt(words[i]);
  return [(join(0) << 64n) | join(2), (join(4) << 64n) | join(6)];
}

/** PCG64, as a function that returns random integers below 2³². */
function generator(...entropy) {
  const [start, sequence] = seedWords(...entropy);
  const increment = ((sequence << 1n) | 1n) & MASK;
  let state = ((increment + start) * MULTIPLIER + increment) & MASK;
  const kept = []; // the other half of 64 bits
  return () => {
    if (kept.length) return kept.pop();
    state = (state * MULTIPLIER + increment) & MASK;
    const bits = BigInt.asUintN(64, (state >> 64n) ^ state);
    const turn = state >> 122n;
    const value = BigInt.asUintN(64, (bits >> turn) | (bits << (64n - turn)));
    kept.push(Number(value >> 32n));
    return Number(value & 0xffffffffn);
  };
}

// The ziggurat's 256 layers: widths, limits of what is surely inside, and heights.
const TAIL = 3.6541528853610088;
const AREA = 0.00492867323399;
const density = (x) => Math.exp((-x * x) / 2);
const [widths, heights] = [new Float32Array(256), new Float32Array(256)];
const limits = new Uint32Array(256);
{
  const base = AREA / density(TAIL);
  limits[0] = (TAIL / base) * 2 ** 23;
  [widths[0], widths[255]] = [base / 2 ** 23, TAIL / 2 ** 23];
  [heights[0], heights[255]] = [1, density(TAIL)];
  for (let i = 254, last = TAIL; i >= 1; i--) {
    const x = Math.sqrt(-2 * Math.log(AREA / last + density(last)));
    limits[i + 1] = (x / last) * 2 ** 23;
    [widths[i], heights[i], last] = [x / 2 ** 23, density(x), x];
  }
}

/** A function that returns standard normal numbers. */
function normalNumbers(next) {
  const uniform = () => (next() >>> 8) / 2 ** 24;
  return () => {
    for (;;) {
      const bits = next();
      const layer = bits & 0xff;
      const position = (bits >>> 9) & 0x7fffff;
      const x = position * widths[layer] * (bits & 0x100 ? -1 : 1);
      if (position < limits[layer]) return x;
      if (layer === 0) {
        let beyond, y;
        do [beyond, y] = [-Math.log1p(-uniform()) / TAIL, -Math.log1p(-uniform())];
        while (2 * y <= beyond * beyond);
        return position & 0x100 ? -TAIL - beyond : TAIL + beyond;
      }
      const rise = heights[layer - 1] - heights[layer];
      if (rise * uniform() + heights[layer] < density(x)) return x;
    }
  };
}

/** Standard normal noise for the first `count` images of a seed. */
export function normal(seed, count, shape) {
  const size = shape.reduce((a, b) => a * b);
  const noise = new Float32Array(count * size);
  for (let i = 0; i < count; i++) {
    const draw = normalNumbers(generator(seed, i));
    for (let j = 0; j < size; j++) noise[i * size + j] = draw();
  }
  return noise;
}
