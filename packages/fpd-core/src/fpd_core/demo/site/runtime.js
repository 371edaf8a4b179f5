// onnxruntime-web from this folder: WebGPU where the browser has an adapter, else WebAssembly.

const FILES = {
  webgpu: ["ort/webgpu.js", "ort/webgpu-wasm.js", "ort/webgpu.wasm"],
  wasm: ["ort/wasm.js", "ort/wasm-wasm.js", "ort/wasm.wasm"],
};
const here = (path) => new URL(path, import.meta.url).href;

async function hasAdapter() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

async function start(backend) {
  const [script, mjs, wasm] = FILES[backend].map(here);
  const ort = await import(script);
  ort.env.wasm.wasmPaths = { mjs, wasm };
  // Threads need a page that is isolated by COOP and COEP headers, which plain hosting does not send.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  const load = async (path) => {
    const session = await ort.InferenceSession.create(here(path), { executionProviders: [backend] });
    return { run: (feeds) => session.run(feeds) };
  };
  return { ort, backend, load, threads: ort.env.wasm.numThreads };
}

/** A runtime whose `probe(runtime)` succeeds; `wanted` is "webgpu", "wasm" or null for the best there is. */
export async function open(wanted, probe) {
  if (wanted === "webgpu" || (wanted !== "wasm" && (await hasAdapter()))) {
    try {
      const runtime = await start("webgpu");
      return { ...runtime, ready: await probe(runtime) };
    } catch (error) {
      if (wanted === "webgpu") throw error;
      console.info("WebGPU did not start, WebAssembly takes over:", error);
    }
  }
  const runtime = await start("wasm");
  return { ...runtime, ready: await probe(runtime) };
}
