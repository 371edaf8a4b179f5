"""The page: its random numbers, its files, and that a browser draws what Python draws from the same noise."""

import io
import shutil
import threading
import urllib.error
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from fpd_core.conditioning import ClassCondition
from fpd_core.config import ConfigError
from fpd_core.demo import noise, ort_web
from fpd_core.demo.build import build, plan
from fpd_core.demo.serve import server
from fpd_core.export.graph import OneStep
from fpd_core.generator import GenerationConfig, Generator
from fpd_core.networks.patch_tokenizer import PatchTokenizer, PatchTokenizerConfig
from fpd_core.networks.scene_text import SceneText, SceneTextConfig
from fpd_core.networks.scene_transformer import SceneTransformer, SceneTransformerConfig
from fpd_core.teachers.scenes import ScenesTeacher
from fpd_core.teachers.teacher import SamplerConfig


def by_hand(index, *words):
    """The number as its description says, in Python's own integers."""

    def mix(x):
        x = ((x ^ x >> 16) * 0x7FEB352D) % 2**32
        x = ((x ^ x >> 15) * 0x846CA68B) % 2**32
        return x ^ x >> 16

    key = mix(words[0])
    for word in words[1:]:
        key = mix((key + (word + 1) * 0x9E3779B9) % 2**32)
    return (mix((key + (index + 1) * 0x9E3779B9) % 2**32) >> 8) / 2**24


def test_noise_is_the_described_hash():
    words = (999, 15, noise.TEACHER, 63)
    assert noise.uniform(70, *words).tolist() == [by_hand(i, *words) for i in range(70)]
    assert noise.student_noise(5, 2, 4)[1, 2].tolist() == [by_hand(i, 5, 1, noise.STUDENT, 2) for i in range(4)]


def test_noise_is_uniform_and_neighbours_are_independent():
    drawn = np.array([noise.uniform(4096, seed, 0, 0, 0) for seed in range(16)], dtype=np.float64)
    counts = np.histogram(drawn, bins=64, range=(0, 1))[0]
    assert ((counts - 1024) ** 2 / 1024).sum() < 63 + 5 * (2 * 63) ** 0.5
    correlation = np.corrcoef(np.concatenate([drawn, np.roll(drawn, 1, axis=1)]))
    assert np.abs(correlation - np.eye(32)).max() < 5 / 4096**0.5


def test_plans_are_the_samplers(teacher):
    teacher.sampler = SamplerConfig(guidance_scale=3.0, guidance_start=1.0, confidence_temperature=6.0)
    found = plan(teacher, 3)
    assert sum(step["count"] for step in found) == 64
    assert [step["guidance"] for step in found] == [1, 2, 3]
    assert [step["noise"] for step in found] == [6, 3, 0]


def test_a_sampler_that_the_page_does_not_know_is_refused(teacher):
    teacher.sampler = SamplerConfig(top_k=5)
    with pytest.raises(ConfigError, match="no top_k"):
        plan(teacher, 2)


def test_without_npm_there_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="install npm"):
        ort_web.place(tmp_path / "ort")


def test_another_package_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "fpd").mkdir()
    (tmp_path / "fpd" / f"onnxruntime-web-{ort_web.VERSION}.tgz").write_bytes(b"something else")
    with pytest.raises(ConfigError, match="not the published"):
        ort_web.place(tmp_path / "ort")


def running(served):
    threading.Thread(target=served.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{served.server_address[1]}"


def test_the_local_page_shows_the_generators_pictures(teacher):
    generator = Generator(teacher, GenerationConfig(), {})
    with server(generator, "127.0.0.1", 0) as served:
        address = running(served)
        with urllib.request.urlopen(address) as answer:
            assert b"ankle boot" in answer.read()
        with urllib.request.urlopen(f"{address}/grid.png?wanted=2&seed=3&count=4") as answer:
            shown = np.asarray(Image.open(io.BytesIO(answer.read())))
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            urllib.request.urlopen(f"{address}/grid.png?wanted=9&seed=3&count=4")
        assert "0 to 2" in refused.value.read().decode()
        served.shutdown()
    images = (generator.generate([2] * 4, seed=3) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    tiles = [shown[32 * row : 32 * (row + 1), 32 * column : 32 * (column + 1)] for row in (0, 1) for column in (0, 1)]
    assert np.array_equal(np.array(tiles), images)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def browser():
    pytest.importorskip("websockets", reason="needs fpd-core[test]")
    pytest.importorskip("onnxscript", reason="needs fpd-core[onnx]")
    import chromium

    if chromium.BINARY is None:
        pytest.skip("no chromium: apt-get install chromium")
    if shutil.which("npm") is None:
        pytest.skip("no npm: the page's runtime comes from it")
    with chromium.Page() as page:
        yield page


@pytest.fixture
def shown(browser, tmp_path):
    """Builds a page, serves it from a folder below the root, opens it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as served:
        address = running(served)

        def show(generator, compared, query, done):
            build(generator, compared, tmp_path / "deep" / "site")
            browser.send("Page.navigate", url=f"{address}/deep/site/?backend=wasm&{query}")
            browser.wait(f"document.documentElement.dataset.{done}")
            assert browser.problems == []
            assert all(url.startswith((f"{address}/deep/site/", "data:")) for url in browser.requests)
            return browser

        yield show
        served.shutdown()


def pixels(page, panel):
    """[N, H, W, 3] uint8 of a panel's canvases."""
    read = f"""[...document.querySelectorAll("#{panel} canvas")].map((canvas) =>
        [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data])"""
    data = np.array(page.value(read), dtype=np.int16)
    side = round((data.shape[1] / 4) ** 0.5)
    return data.reshape(-1, side, side, 4)[..., :3]


def as_pixels(images):
    return (images * 255).round().permute(0, 2, 3, 1).numpy().astype(np.int16)


def in_steps(teacher, label, seed, images, steps):
    """The page's teacher, written anew: float64, one image and one token at a time."""
    tokens = torch.full((images, 64), teacher.mask_id)
    condition, null = ClassCondition(torch.full((images,), label)), ClassCondition(torch.full((images,), 3))
    for number, step in enumerate(plan(teacher, steps)):
        c, u = (teacher.logits(tokens, which).double() for which in (condition, null))
        probabilities = ((u + step["guidance"] * (c - u)) / step["temperature"]).softmax(-1).numpy()
        for b in range(images):
            draws, ranking = (
                noise.uniform(64, seed, b, noise.TEACHER, 2 * number + kind).astype(np.float64) for kind in (0, 1)
            )
            found = []
            for place in np.flatnonzero((tokens[b] == teacher.mask_id).numpy()):
                p = probabilities[b, place]
                code = int(np.searchsorted(p.cumsum(), draws[place], side="right"))
                gumbel = -np.log(max(-np.log(max(ranking[place], 1e-20)), 1e-20))
                found.append((np.log(p[code]) + step["noise"] * gumbel, place, code))
            for _, place, code in sorted(found, reverse=True)[: step["count"]]:
                tokens[b, place] = code
    return teacher.decode(teacher.codebook[tokens], condition).clamp(0, 1)


@pytest.mark.browser
def test_the_browser_draws_what_python_draws(teacher, shown):
    """Equal tokens, and pixels of 8 bits that differ by a rounding at most, for student and teacher."""
    teacher.half().float()  # what the page's files hold
    generator = Generator(teacher, GenerationConfig(init_mask_ratio=0.8), {})
    page = shown(generator, teacher, "class=2&seed=7&count=4&steps=4", "drawn")
    images, _ = OneStep(generator)(torch.full((4,), 2), noise.student_noise(7, 4, 64))
    assert np.abs(pixels(page, "student") - as_pixels(images)).max() <= 1
    assert np.abs(pixels(page, "teacher") - as_pixels(in_steps(teacher, 2, 7, 4, 4))).max() <= 1

    page.value("document.getElementById('seed').focus()")
    page.key("ArrowRight", 39)
    page.wait("document.documentElement.dataset.drawn === '2'")
    images, _ = OneStep(generator)(torch.full((4,), 2), noise.student_noise(8, 4, 64))
    assert np.abs(pixels(page, "student") - as_pixels(images)).max() <= 1

    unnamed = "[...document.querySelectorAll('input, select')].filter((box) => !box.labels.length).length"
    assert page.value(unnamed) == 0
    grounds = []
    for dark in (False, True):
        page.resize(390, 800, dark=dark)
        grounds.append(page.value("getComputedStyle(document.body).backgroundColor"))
        assert page.value("document.scrollingElement.scrollWidth") <= 390
    assert grounds[0] != grounds[1]


@pytest.mark.browser
def test_the_browser_reads_prompts(shown):
    torch.manual_seed(0)
    text = SceneTextConfig(words=("a", "cat", "red"), context_len=4, width=16, depth=1, num_heads=2)
    network = SceneTransformerConfig(
        codebook_size=12, context_len=4, text_width=16, width=16, depth=1, num_heads=2, mlp_width=24
    )
    tokenizer = PatchTokenizerConfig(codebook_size=12, code_dim=5, encoder_width=8, widths=(8, 8, 8))
    teacher = ScenesTeacher(SceneTransformer(network), PatchTokenizer(tokenizer), SceneText(text)).half().float()
    generator = Generator(teacher, GenerationConfig(), {})
    page = shown(generator, None, "prompt=A+red,+cat.&seed=1&count=1", "first")
    images, _ = OneStep(generator)(torch.tensor([[1, 3, 2, 0]]), noise.student_noise(1, 1, 64))
    assert np.abs(pixels(page, "student") - as_pixels(images)).max() <= 1
    page.value("document.getElementById('prompt').value = 'a blue cat'")
    page.value("document.getElementById('prompt').dispatchEvent(new Event('input', { bubbles: true }))")
    assert "“blue”" in page.value("document.getElementById('prompt-error').textContent")
