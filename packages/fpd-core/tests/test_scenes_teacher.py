"""The bundled text teacher: loads, samples what a prompt asks for, and is rebuilt from its architecture."""

import math
from pathlib import Path

import pytest
import torch

from fpd_core.conditioning import TextCondition
from fpd_core.generator import GenerationConfig, Generator, load_generator, save_generator
from fpd_core.guidance import GuidanceRamp
from fpd_core.networks.extra_inputs import extended
from fpd_core.networks.scene_judge import load_scene_judge
from fpd_core.networks.scene_transformer import SceneTransformer, SceneTransformerConfig
from fpd_core.sampling import sample
from fpd_core.teachers import load_teacher, rebuild

ASSETS = Path(__file__).resolve().parents[3] / "assets/scenes"


@pytest.fixture(scope="module")
def teacher():
    return load_teacher({"name": "scenes", "path": ASSETS / "teacher"})


def draw(teacher, prompts, steps=16, seed=0):
    condition = teacher.condition(prompts)
    tokens = sample(teacher, condition, steps, generator=torch.Generator().manual_seed(seed))
    return teacher.decode(teacher.codebook[tokens], condition).clamp(0, 1)


def test_most_pictures_of_a_single_object_show_it(teacher):
    """Seen with the judge; the card says how often all six tasks succeed."""
    names = ("dog", "bus", "apple", "tv", "clock", "umbrella", "boat", "chair")
    pictures = draw(teacher, [f"a photo of {'an' if n[0] in 'aeiou' else 'a'} {n}" for n in names])
    assert pictures.shape == (8, 3, 64, 64)
    found = load_scene_judge(ASSETS / "judge").detect(pictures)
    shown = [any(box[4] > 0.3 for box in f.boxes.get(name, [])) for name, f in zip(names, found, strict=True)]
    assert sum(shown) >= 6


def test_exchanging_the_relation_exchanges_the_sides(teacher):
    """Where the first step expects a dog: its left or its right half of the picture."""
    prompts = ["a photo of a dog left of a cup", "a photo of a dog right of a cup"]
    condition = teacher.condition(prompts)
    assert isinstance(condition, TextCondition)
    masked = torch.full((2, 64), teacher.mask_id)
    codes = []
    for thing in ("dog", "cup"):
        alone = teacher.condition([f"a photo of a {thing}"] * 24)
        codes.append(set(sample(teacher, alone, 16, generator=torch.Generator().manual_seed(0)).unique().tolist()))
    own = torch.tensor(sorted(codes[0] - codes[1]))
    share = teacher.logits(masked, condition).softmax(-1)[..., own].sum(-1).view(2, 8, 8)
    assert share[0, :, :4].sum() > 2 * share[0, :, 4:].sum()
    assert share[1, :, 4:].sum() > 2 * share[1, :, :4].sum()


def test_the_null_condition_is_the_empty_prompt(teacher):
    condition = teacher.condition(["a photo of a dog", "a photo of four cats"])
    null = teacher.null_condition(condition)
    assert len(null) == 2
    assert torch.equal(null.tokens[0], null.tokens[1])
    assert not torch.equal(null.tokens[0], condition.tokens[0])


@pytest.mark.parametrize(
    ("ramp", "wanted"),
    # r = 1, 2/3, 1/3, 0: the arccos sampler is at progress cos(r pi/2) = 0, 1/2, sqrt(3)/2, 1.
    [("linear", [1, 2, 1 + 3**0.5, 3]), ("cosine", [1, 2, 2 - math.cos(3**0.5 * math.pi / 2), 3])],
)
def test_the_samplers_ramp_gives_g_of_the_refinement(teacher, monkeypatch, ramp, wanted):
    ramped = teacher.sampler.model_copy(
        update={"guidance_start": 1.0, "guidance_scale": 3.0, "guidance_ramp": ramp, "schedule": "arccos"}
    )
    monkeypatch.setattr(teacher, "sampler", ramped)
    g, temperature = teacher.refinement(torch.tensor([1, 2 / 3, 1 / 3, 0], dtype=torch.float64), "sampler", None)
    assert g.tolist() == pytest.approx(wanted)
    assert temperature == 1


def test_a_ramp_of_its_own_gives_g_of_the_refinement(teacher):
    g, _ = teacher.refinement(torch.tensor([0.0, 0.25, 1.0]), GuidanceRamp(at_zero=1.5, at_one=3.5), None)
    assert g.tolist() == [1.5, 2.0, 3.5]
    assert teacher.refinement(torch.tensor([0.5]), None, None)[0] == 1.5


def test_g_of_every_image_guides_that_image(teacher):
    prompts, scales = ["a photo of a dog", "a photo of a red apple", "a photo of two cups"], [1.0, 1.5, 3.0]
    condition, tokens = teacher.condition(prompts), torch.randint(1024, (3, 64))
    tokens[:, ::2] = teacher.mask_id
    together = teacher.guided_logits(tokens, condition, torch.tensor(scales))
    for number, (prompt, scale) in enumerate(zip(prompts, scales, strict=True)):
        own = tokens[number : number + 1]
        conditional = teacher.logits(own, teacher.condition(prompt)).double()
        unconditional = teacher.logits(own, teacher.condition("")).double()
        alone = unconditional + scale * (conditional - unconditional)
        torch.testing.assert_close(together[number], alone[0].float(), rtol=1e-4, atol=1e-4)


def test_unknown_words_are_refused(teacher):
    with pytest.raises(ValueError, match="does not know the word 'giraffe'"):
        teacher.condition("a photo of a giraffe")


def test_an_exported_generator_opens_again(teacher, tmp_path):
    save_generator(tmp_path, teacher, teacher.network, GenerationConfig(), {"name": "scenes"}, "a card", torch.float32)
    prompts = ["a photo of a red apple and a dog"]
    again, first = load_generator(tmp_path), Generator.untrained(teacher, GenerationConfig())
    assert torch.equal(again.generate(prompts, seed=3), first.generate(prompts, seed=3))


def test_architecture_rebuilds_the_same_parts(teacher):
    twin = rebuild(teacher.architecture())
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in teacher.state_dict().items()}


def test_every_input_reaches_the_logits():
    """Words, plan and neighbouring tokens all matter; a permuted batch gives permuted logits."""
    torch.manual_seed(0)
    config = SceneTransformerConfig(
        codebook_size=7, grid=3, context_len=4, text_width=6, width=8, depth=2, num_heads=2, mlp_width=12
    )
    network = SceneTransformer(config).double()
    tokens, text = torch.randint(8, (2, 9)), torch.randn(2, 13, 6, dtype=torch.float64)
    logits = network(tokens, text)
    assert logits.shape == (2, 9, 7)
    torch.testing.assert_close(network(tokens.flip(0), text.flip(0)), logits.flip(0))
    for place in (0, 5):
        changed = text.clone()
        changed[0, place] += 1
        assert not torch.allclose(network(tokens, changed)[0], logits[0])
    other = tokens.clone()
    other[0, 8] = (other[0, 8] + 1) % 8
    assert not torch.allclose(network(other, text)[0, 0], logits[0, 0])


def tokens_and_text(teacher, seed=0):
    tokens = torch.randint(teacher.mask_id + 1, (3, teacher.seq_len), generator=torch.Generator().manual_seed(seed))
    return tokens, teacher.condition(["a photo of a dog", "a photo of two cups", "a photo of a red apple"]).tokens


def test_what_is_appended_is_read_as_a_word_more(teacher):
    """The same weights with room for thirteen words read it in the words' place."""
    tokens, text = tokens_and_text(teacher)
    network, more = teacher.network, torch.randn(3, 1, text.shape[2], generator=torch.Generator().manual_seed(1))
    wider = SceneTransformer(network.config.model_copy(update={"context_len": network.config.context_len + 1}))
    wider.load_state_dict(network.state_dict())
    words, plan = text.split([network.config.context_len, network.config.seq_len], dim=1)
    found = network.scores(network.embedded(tokens), text, more)
    torch.testing.assert_close(found, wider(tokens, torch.cat([words, more, plan], dim=1)))
    assert (found - network(tokens, text)).abs().max() > 1e-3


def test_features_are_what_the_blocks_say(teacher):
    tokens, text = tokens_and_text(teacher)
    network, said = teacher.network, []
    hooks = [block.register_forward_hook(lambda *given: said.append(given[2])) for block in network.blocks]
    network(tokens, text)
    for hook in hooks:
        hook.remove()
    found = network.features(network.embedded(tokens), text, [0, 2])
    assert len(found) == 2
    assert torch.equal(found[0], said[0])
    assert torch.equal(found[1], said[2])


@pytest.mark.parametrize("kind", ["latent", "noise"])
def test_a_further_input_is_the_teacher_until_it_is_given_and_survives_the_export(teacher, tmp_path, kind):
    tokens, text = tokens_and_text(teacher)
    network = extended(teacher.network, kind)
    assert torch.equal(network(tokens, text), teacher.network(tokens, text))
    for name, weight in network.named_parameters():
        if "projection" in name:
            weight.data.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    given = network.draw_inputs(3, torch.Generator().manual_seed(3))
    assert (network(tokens, text, **given) - teacher.network(tokens, text)).abs().max() > 1e-3
    generator = Generator(teacher.with_network(network), GenerationConfig(sampler="confidence", steps=2), {})
    save_generator(tmp_path, teacher, network, generator.generation, {"name": "scenes"}, "# card", torch.float32)
    opened = load_generator(tmp_path)
    assert opened.model.network.extra_input == kind
    assert torch.equal(opened.generate("a photo of a dog", seed=1), generator.generate("a photo of a dog", seed=1))
