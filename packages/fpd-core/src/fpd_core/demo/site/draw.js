// The student in one step and the teacher in N, on onnxruntime sessions.

import { TEACHER, studentNoise, uniform } from "./noise.js";

/** Tensors of what is wanted, for `count` images: labels, or the token ids of a prompt. */
function condition(ort, about, wanted, count) {
  const row = about.vocabulary ? wanted : [wanted];
  const values = BigInt64Array.from(Array.from({ length: count }, () => row).flat(), BigInt);
  return about.vocabulary
    ? { words: new ort.Tensor("int64", values, [count, row.length]) }
    : { labels: new ort.Tensor("int64", values, [count]) };
}

/** Float32Array [count, 3, size, size] in [0, 1]. */
export async function student(ort, session, about, wanted, seed, count) {
  const noise = new ort.Tensor("float32", studentNoise(seed, count, about.sequence_length), [
    count, 3, about.sequence_length,
  ]);
  const { images } = await session.run({ ...condition(ort, about, wanted, count), noise });
  return images.data;
}

/** Code of one position by inversion of its cumulative probabilities, and the logarithm of its probability. */
function drawn(logits, from, codes, temperature, u) {
  let top = -Infinity;
  for (let k = 0; k < codes; k++) top = Math.max(top, logits[from + k]);
  let total = 0;
  for (let k = 0; k < codes; k++) total += Math.exp((logits[from + k] - top) / temperature);
  let left = u * total;
  let code = 0;
  for (let k = 0; k < codes; k++) {
    const mass = Math.exp((logits[from + k] - top) / temperature);
    if (mass > 0) code = k;
    left -= mass;
    if (left < 0) break;
  }
  return [code, (logits[from + code] - top) / temperature - Math.log(total)];
}

/**
 * The confidence sampler: each step draws all open tokens and keeps those it is surest of.
 * `plan` has {count, guidance, temperature, noise} per step. `onStep(done)` may return true to stop; then null.
 */
export async function teacher(ort, sessions, about, plan, wanted, seed, count, onStep) {
  const { sequence_length: length, codebook_size: codes, mask_id: mask } = about;
  const tokens = new BigInt64Array(count * length).fill(BigInt(mask));
  const given = condition(ort, about, wanted, count);
  const shaped = () => new ort.Tensor("int64", tokens.slice(), [count, length]);
  const draws = new Float32Array(length);
  const ranking = new Float32Array(length);
  for (const [step, { count: kept, guidance, temperature, noise }] of plan.entries()) {
    const scale = new ort.Tensor("float32", new Float32Array(count).fill(guidance), [count]);
    const { logits } = await sessions.denoiser.run({ ...given, tokens: shaped(), guidance: scale });
    for (let image = 0; image < count; image++) {
      uniform(draws, seed, image, TEACHER, 2 * step);
      uniform(ranking, seed, image, TEACHER, 2 * step + 1);
      const open = [];
      for (let place = 0; place < length; place++) {
        const at = image * length + place;
        if (tokens[at] !== BigInt(mask)) continue;
        const [code, confidence] = drawn(logits.data, at * codes, codes, temperature, draws[place]);
        const gumbel = -Math.log(Math.max(-Math.log(Math.max(ranking[place], 1e-20)), 1e-20));
        open.push({ at, code, score: confidence + noise * gumbel });
      }
      open.sort((a, b) => b.score - a.score);
      for (const { at, code } of open.slice(0, kept)) tokens[at] = BigInt(code);
    }
    if (await onStep?.(step + 1)) return null;
  }
  const { images } = await sessions.decoder.run({ ...given, tokens: shaped() });
  return images.data;
}
