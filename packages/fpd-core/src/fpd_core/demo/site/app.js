// The page: controls in, pictures out. One drawing at a time; the newest wish wins.

import { student, teacher } from "./draw.js";
import { open } from "./runtime.js";
import { tokenize } from "./words.js";

const find = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const panels = Object.fromEntries(["student", "teacher"].map((name) => [name, find(name)]));

function say(text, wrong = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", wrong);
}

/** What the controls ask for; null while the prompt makes no sense. */
function wish(about) {
  const chosen = { seed: Number(find("seed").value), count: Number(find("count").value), steps: find("steps").value };
  if (!about.vocabulary) {
    const box = find("class");
    return { ...chosen, wanted: Number(box.value), name: box.selectedOptions[0].textContent };
  }
  const name = find("prompt").value;
  try {
    chosen.wanted = tokenize(name, about.vocabulary);
    find("prompt-error").textContent = "";
  } catch (error) {
    find("prompt-error").textContent = error.message;
    return null;
  }
  return { ...chosen, name };
}

/** Paint [count, 3, size, size] in [0, 1] as one canvas per picture. */
function paint(panel, images, size, { count, name, seed }) {
  const grid = panel.querySelector(".grid");
  grid.style.setProperty("--columns", Math.sqrt(count));
  grid.replaceChildren();
  for (let image = 0; image < count; image++) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = size;
    const pixels = new ImageData(size, size);
    for (let at = 0; at < size * size; at++) {
      for (let channel = 0; channel < 3; channel++) {
        pixels.data[4 * at + channel] = Math.round(255 * images[(3 * image + channel) * size * size + at]);
      }
      pixels.data[4 * at + 3] = 255;
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${name}, seed ${seed}, picture ${image + 1} of ${count}`);
    const item = document.createElement("div");
    item.setAttribute("role", "listitem");
    item.append(canvas);
    grid.append(item);
  }
  panel.querySelector(".download").disabled = false;
}

function showTime(panel, milliseconds) {
  const strong = document.createElement("strong");
  strong.textContent = milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds);
  panel.querySelector(".time").replaceChildren(strong, " ms");
}

/** All pictures of a panel in one PNG, enlarged without smoothing. */
function download(panel) {
  const tiles = [...panel.querySelectorAll("canvas")];
  const columns = Math.round(Math.sqrt(tiles.length));
  const side = tiles[0].width * Math.max(1, Math.floor(256 / tiles[0].width));
  const sheet = document.createElement("canvas");
  sheet.width = sheet.height = side * columns;
  const context = sheet.getContext("2d");
  context.imageSmoothingEnabled = false;
  tiles.forEach((tile, n) => context.drawImage(tile, side * (n % columns), side * Math.floor(n / columns), side, side));
  const link = document.createElement("a");
  link.download = `${panel.id}-${tiles[0].getAttribute("aria-label").replace(/, picture.*/, "").replace(/\W+/g, "-")}.png`;
  link.href = sheet.toDataURL("image/png");
  link.click();
}

function fill(about) {
  document.title = find("lead").previousElementSibling.textContent = about.title;
  find("class-field").hidden = Boolean(about.vocabulary);
  find("prompt-field").hidden = !about.vocabulary;
  const names = about.classes?.length ? about.classes : Array.from({ length: about.num_classes ?? 0 }, (_, n) => `class ${n}`);
  find("class").append(...names.map((name, n) => new Option(name, n)));
  find("prompts").append(...(about.example_prompts ?? []).map((prompt) => new Option(prompt)));
  find("prompt").value = about.example_prompts?.[0] ?? "";
  find("words").textContent = Object.keys(about.vocabulary?.tokens ?? {}).join(" ");
  find("teacher").hidden = find("steps-field").hidden = !about.plans;
  find("steps").append(...Object.keys(about.plans ?? {}).map((steps) => new Option(steps, steps)));
  if (about.plans) find("steps").value = about.default_steps;
  for (const [id, value] of query) if (["class", "prompt", "seed", "count", "steps"].includes(id)) find(id).value = value;
}

async function run() {
  const started = performance.now();
  const about = await (await fetch("model.json")).json();
  fill(about);
  const runtime = await open(query.get("backend"), async ({ ort, load }) => {
    const session = await load(about.files.student);
    const first = about.vocabulary ? tokenize("", about.vocabulary) : 0;
    await student(ort, session, about, first, 0, 1); // compiles kernels, so that the first time shown is none of that
    return session;
  });
  const { ort, load, backend, threads, ready } = runtime;
  let sessions = null;
  let newest = 0;
  let busy = Promise.resolve();

  async function draw(turn, wanted) {
    if (turn !== newest) return;
    let start = performance.now();
    const images = await student(ort, ready, about, wanted.wanted, wanted.seed, wanted.count);
    showTime(panels.student, performance.now() - start);
    paint(panels.student, images, about.image_size, wanted);
    document.documentElement.dataset.first ??= Math.round(performance.now() - started);
    say(`Drawn: ${wanted.name}, seed ${wanted.seed}.`);
    if (!about.plans) return;
    panels.teacher.classList.add("waiting");
    find("teacher-title").textContent = `Teacher, ${wanted.steps} steps`;
    // A moment without a new wish, so that the seed slider stays live.
    await new Promise((wait) => setTimeout(wait, 120));
    if (turn !== newest) return;
    sessions ??= { denoiser: await load(about.files.denoiser), decoder: await load(about.files.decoder) };
    if (!sessions.warm) {
      const once = [{ ...about.plans[about.default_steps][0], count: about.sequence_length }];
      await teacher(ort, sessions, about, once, wanted.wanted, 0, 1);
      sessions.warm = true;
    }
    const plan = about.plans[wanted.steps];
    start = performance.now();
    const slow = await teacher(ort, sessions, about, plan, wanted.wanted, wanted.seed, wanted.count, async (done) => {
      panels.teacher.querySelector(".time").textContent = `step ${done} of ${plan.length}`;
      await new Promise((wait) => setTimeout(wait));
      return turn !== newest;
    });
    if (slow === null) return;
    showTime(panels.teacher, performance.now() - start);
    paint(panels.teacher, slow, about.image_size, wanted);
    panels.teacher.classList.remove("waiting");
    document.documentElement.dataset.drawn = turn;
  }

  function ask() {
    find("seed-value").value = find("seed").value;
    const wanted = wish(about);
    if (!wanted) return;
    const turn = ++newest;
    busy = busy.then(() => draw(turn, wanted)).catch((error) => say(`Drawing failed: ${error.message}`, true));
  }

  find("controls").addEventListener("input", ask);
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const panel of Object.values(panels)) {
    panel.querySelector(".download").addEventListener("click", () => download(panel));
  }
  const where = backend === "webgpu" ? "WebGPU" : `WebAssembly, ${threads === 1 ? "one thread" : `${threads} threads`}`;
  find("facts").textContent = `Runs here, on ${where}; nothing leaves this page. ${about.facts}`;
  ask();
}

run().catch((error) => say(`The page could not start: ${error.message}`, true));
