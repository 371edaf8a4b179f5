"""Graphs: the draws they make of uniform numbers, and that other runtimes draw the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fpd_core.conditioning import ClassCondition
from fpd_core.config import ConfigError
from fpd_core.export import cli
from fpd_core.export.graph import Decoder, Denoiser, OneStep, draw_tokens, start_tokens
from fpd_core.export.onnx_file import save_onnx
from fpd_core.export.outline import outline
from fpd_core.export.program import save_program
from fpd_core.generator import GenerationConfig, Generator, load_generator
from fpd_core.networks.extra_inputs import network_reading
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig

ASSETS = Path(__file__).resolve().parents[3] / "assets"


def one_step(teacher, **how):
    return OneStep(Generator(teacher, GenerationConfig(**how), {}))


def noise(batch, length, seed=0):
    return torch.rand(batch, 3, length, generator=torch.Generator().manual_seed(seed))


def test_the_lowest_places_are_hidden_and_the_first_of_equal_ones():
    places = torch.tensor([[0.5, 0.1, 0.9, 0.1, 0.3], [0.2, 0.2, 0.2, 0.2, 0.2]])
    codes = torch.tensor([[0.0, 0.99, 0.5, 0.2, 0.999999], [0.0, 0.15, 0.3, 0.45, 0.6]])
    found = start_tokens(places, codes, 3, 7, 8)
    assert found.tolist() == [[0, 8, 3, 8, 8], [8, 8, 8, 3, 4]]


def test_a_uniform_number_below_one_is_always_a_code():
    almost = torch.full((1, 3), 1 - 2**-24)
    assert start_tokens(torch.zeros(1, 3), almost, 1, 1000, 1000).tolist() == [[1000, 999, 999]]


def test_draws_invert_the_cumulative_probabilities():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, 7, generator=generator) * 3
    uniform = torch.rand(2, 5, generator=generator)
    p = np.exp(logits.double().numpy())
    ends = (p / p.sum(-1, keepdims=True)).cumsum(-1)
    wanted = [[np.searchsorted(ends[b, i], uniform[b, i].item(), side="right") for i in range(5)] for b in range(2)]
    assert draw_tokens(logits, uniform).tolist() == wanted


def test_a_code_without_mass_is_never_drawn():
    logits = torch.tensor([[[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]]]).expand(2, 1, 5)
    assert draw_tokens(logits, torch.tensor([[0.0], [1 - 2**-24]])).tolist() == [[1], [3]]


def test_one_step_is_the_students_pieces_in_order(teacher):
    """z_init, logits at it, a draw, the decoder: each by its own road, in float64 where it is arithmetic."""
    graph, random = one_step(teacher, init_mask_ratio=0.8, temperature=0.7, guidance_scale=60), noise(2, 64)
    labels = torch.tensor([2, 0])
    images, tokens = graph(labels, random)
    start = torch.empty(2, 64, dtype=torch.int64)
    for b in range(2):
        hidden = set(sorted(range(64), key=lambda i: random[b, 0, i].item())[:51])  # round(0.8 * 64)
        start[b] = torch.tensor([12 if i in hidden else int(random[b, 1, i].item() * 12) for i in range(64)])
    c, u = (teacher.logits(start, ClassCondition(which)).double() for which in (labels, torch.tensor([3, 3])))
    p = (((u + 60 * (c - u)) / 0.7).exp()).numpy()
    ends = (p / p.sum(-1, keepdims=True)).cumsum(-1)
    drawn = (ends <= random[:, 2, :, None].double().numpy()).sum(-1)
    assert tokens.tolist() == drawn.tolist()
    decoded = teacher.decode(teacher.codebook[torch.from_numpy(drawn)], ClassCondition(labels))
    torch.testing.assert_close(images, decoded.clamp(0, 1))


def test_the_denoiser_guides(teacher):
    labels, tokens = torch.tensor([1, 2]), torch.randint(13, (2, 64), generator=torch.Generator().manual_seed(3))
    c, u = (teacher.logits(tokens, ClassCondition(which)) for which in (labels, torch.tensor([3, 3])))
    found = Denoiser(teacher)(labels, tokens, torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(found, torch.stack([c[0], u[1] + 3 * (c[1] - u[1])]))


@pytest.mark.parametrize("how", [{"steps": 2}, {"sampler": "ancestral"}, {"embedding_noise": 0.1}])
def test_what_is_no_single_graph_is_refused(teacher, how):
    with pytest.raises(ConfigError, match=r"one step|Gaussian noise"):
        one_step(teacher, **how)


def test_a_network_that_draws_for_itself_is_refused(teacher):
    sizes = MaskGitConfig(codebook_size=12, num_classes=3, seq_len=64, width=24, depth=1, num_heads=2, mlp_width=32)
    with pytest.raises(ConfigError, match="Gaussian noise"):
        one_step(teacher.with_network(network_reading(MaskGit, sizes, "latent")))


def session(path):
    ort = pytest.importorskip("onnxruntime", reason="needs fpd-core[onnx]")
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("world", ["fashion", "scenes"])
def test_onnxruntime_draws_the_same_tokens_and_pixels(world, tmp_path):
    """`half` stores what the folder stores, so it must change nothing either."""
    pytest.importorskip("onnxscript", reason="needs fpd-core[onnx]")
    generator = load_generator(ASSETS / world / "student")
    graph, path = OneStep(generator), tmp_path / "student.onnx"
    save_onnx(graph, path, weights="half")
    assert path.stat().st_size < 2.5 * sum(p.numel() for p in graph.parameters())
    running = session(path)
    for batch in (1, 3, 8):
        random = noise(batch, 64, seed=batch)
        if world == "fashion":
            wanted = torch.arange(batch)
        else:
            prompts = generator.model.example_prompts
            wanted = generator.model.text.tokenize([prompts[i % len(prompts)] for i in range(batch)])
        with torch.no_grad():
            images, tokens = graph(wanted, random)
        found, drawn = running.run(None, {graph.wanted: wanted.numpy(), "noise": random.numpy()})
        assert np.array_equal(drawn, tokens.numpy())
        assert np.abs(found - images.numpy()).max() <= 1e-4


@pytest.mark.parametrize(("part", "dtype", "weights"), [(Decoder, "float16", "full"), (Denoiser, "float32", "int8")])
def test_coarser_graphs_stay_close(teacher, tmp_path, part, dtype, weights):
    pytest.importorskip("onnxscript", reason="needs fpd-core[onnx]")
    tokens = torch.randint(12, (3, 64), generator=torch.Generator().manual_seed(3))
    graph = part(teacher)
    given = (torch.tensor([0, 1, 2]), tokens, torch.tensor([1.0, 1.5, 2.0]))[: len(graph.inputs)]
    wanted = graph(*given)
    save_onnx(graph, tmp_path / "teacher.onnx", dtype, weights)
    feeds = dict(zip(graph.inputs, (value.numpy() for value in given), strict=True))
    (found,) = session(tmp_path / "teacher.onnx").run(None, feeds)
    assert found.dtype == np.float32
    error = np.square(found - wanted.numpy()).mean() ** 0.5
    assert 0 < error <= 0.1 * wanted.std().item()


def test_eight_bits_in_half_precision_are_refused(teacher, tmp_path):
    with pytest.raises(ConfigError, match="float32"):
        save_onnx(Decoder(teacher), tmp_path / "x.onnx", "float16", "int8")


def test_a_program_reloads_and_draws_the_same_without_us(teacher, tmp_path):
    graph = one_step(teacher)
    save_program(graph, tmp_path / "student.pt2")
    reloaded = torch.export.load(tmp_path / "student.pt2").module()
    for batch in (1, 5):
        given = (torch.arange(batch) % 3, noise(batch, 64))
        for found, wanted in zip(reloaded(*given), graph(*given), strict=True):
            assert torch.equal(found, wanted)


def test_torch_compile_takes_the_graph_whole(teacher):
    graph, given = one_step(teacher), (torch.tensor([0, 2]), noise(2, 64))
    compiled = torch.compile(graph, fullgraph=True, dynamic=True, backend="eager")
    for found, wanted in zip(compiled(*given), graph(*given), strict=True):
        assert torch.equal(found, wanted)


def test_the_json_beside_a_graph_turns_prompts_into_its_numbers(monkeypatch, tmp_path):
    """The file is written by the command; tokens are looked up by hand."""
    written = []
    monkeypatch.setattr("fpd_core.export.onnx_file.save_onnx", lambda graph, path, *how: written.append(path.touch()))
    arguments = ["onnx", "--ckpt", str(ASSETS / "scenes/student"), "--out", str(tmp_path / "s.onnx")]
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "words, noise -> images, tokens" in done.output
    about = json.loads((tmp_path / "s.json").read_text())
    vocabulary = about["vocabulary"]
    numbers = [vocabulary["tokens"][word] for word in ["a", "photo", "of", "a", "red", "apple"]]
    numbers += [vocabulary["padding"]] * (vocabulary["context_length"] - len(numbers))
    generator = load_generator(ASSETS / "scenes/student")
    assert generator.model.text.tokenize(["A photo of a red apple."]).tolist() == [numbers]
    assert (about["mask_id"], about["sequence_length"], about["inputs"]) == (1024, 64, ["words", "noise"])


def test_the_decoder_gives_the_pixels_of_tokens(teacher):
    labels, tokens = torch.tensor([1, 2]), torch.randint(12, (2, 64), generator=torch.Generator().manual_seed(5))
    wanted = teacher.tokenizer.decode(teacher.tokenizer.codebook[tokens])
    torch.testing.assert_close(Decoder(teacher)(labels, tokens), wanted)


@pytest.mark.full_size
@pytest.mark.parametrize(
    ("family", "parameters", "inputs", "image"),
    [
        ("maskgit", 174_160_874, {"labels": ("batch",), "noise": ("batch", "3", "256")}, ("batch", "3", "256", "256")),
        (
            "maskgen",
            604_311_552,
            {"words": ("batch", "77"), "noise": ("batch", "3", "128")},
            ("batch", "3", "256", "256"),
        ),
    ],
)
def test_public_sizes_are_one_graph_of_any_batch_size(family, parameters, inputs, image):
    """On the meta device: no weight exists. The published count is of the transformer alone."""
    if family == "maskgen":
        pytest.importorskip("open_clip")
    found = outline(family)
    assert found.parameters > parameters
    assert found.inputs == inputs
    assert found.outputs == {"images": image, "tokens": ("batch", inputs["noise"][2])}


def test_an_unknown_public_size_is_refused():
    with pytest.raises(ConfigError, match="maskgit, maskgen"):
        outline("fashion")
