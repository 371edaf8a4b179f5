// Random numbers by counting; fpd_core/demo/noise.py describes them and makes the same ones, to the bit.

const GOLDEN = 0x9e3779b9;
export const STUDENT = 0;
export const TEACHER = 1;

function mix(x) {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

function key(words) {
  let k = mix(words[0] >>> 0);
  for (const word of words.slice(1)) k = mix((k + Math.imul(word + 1, GOLDEN)) >>> 0);
  return k;
}

/** Fill `out`, a Float32Array, with numbers in [0, 1) named by `words`. */
export function uniform(out, ...words) {
  const k = key(words);
  for (let i = 0; i < out.length; i++) {
    out[i] = (mix((k + Math.imul(i + 1, GOLDEN)) >>> 0) >>> 8) / 2 ** 24;
  }
  return out;
}

/** Noise of the one-step graph for images 0 .. count - 1: [count, 3, length]. */
export function studentNoise(seed, count, length) {
  const noise = new Float32Array(count * 3 * length);
  for (let image = 0; image < count; image++) {
    for (let row = 0; row < 3; row++) {
      const at = (image * 3 + row) * length;
      uniform(noise.subarray(at, at + length), seed, image, STUDENT, row);
    }
  }
  return noise;
}
