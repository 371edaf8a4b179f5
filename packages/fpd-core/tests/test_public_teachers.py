"""The public families at tiny sizes: which features go where, guidance conventions, ranges, loading, round trips."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fpd_core import load_generator
from fpd_core.checkpoints import CheckpointError
from fpd_core.conditioning import PromptCondition, TextCondition
from fpd_core.config import ConfigError
from fpd_core.generator import GenerationConfig, Generator, save_generator
from fpd_core.lift import Lift, LiftConfig
from fpd_core.networks.clip_text import ClipText, ClipTextConfig
from fpd_core.networks.halton import HaltonConfig, HaltonMaskGit
from fpd_core.networks.maskgen import MaskGen, MaskGenConfig
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.meissonic import Meissonic, MeissonicConfig
from fpd_core.networks.tatitok import TaTiTok, TaTiTokConfig
from fpd_core.networks.vqgan import VqGan, VqGanConfig
from fpd_core.objective import ObjectiveConfig, fixed_point_loss
from fpd_core.refine import refine
from fpd_core.sampling import halton_order, sample
from fpd_core.schedules import reveal_plan
from fpd_core.teachers import halton, load_teacher, maskgen, maskgit, teacher_config
from fpd_core.teachers.fashion import FashionTeacher
from fpd_core.teachers.halton import HaltonTeacher
from fpd_core.teachers.maskgen import MaskGenTeacher
from fpd_core.teachers.maskgit import MaskGitTeacher
from fpd_core.teachers.meissonic import MeissonicTeacher, vq_model
from fpd_core.teachers.scenes import ScenesTeacher
from fpd_core.teachers.text_conditional import CaptionCache

MASKGIT = MaskGitConfig(codebook_size=32, num_classes=5, seq_len=16, width=24, depth=1, num_heads=2, mlp_width=32)
VQGAN = VqGanConfig(codebook_size=32, code_dim=32, channels=32, multipliers=(1, 1), num_blocks=1)
# Two heads of 12 channels in a width of 25: as in the small model, they do not fill it.
HALTON = HaltonConfig(codebook_size=32, num_classes=5, seq_len=16, width=25, depth=2, num_heads=2, mlp_width=32)
LLAMAGEN = VQGAN.model_copy(update={"code_dim": 8, "latent_channels": 32, "unit_codes": True})
MASKGEN = MaskGenConfig(
    codebook_size=32, seq_len=8, width=24, depth=2, num_heads=2, mlp_width=32, text_width=32, pooled_width=16
)
TATITOK = TaTiTokConfig(
    codebook_size=32,
    code_dim=6,
    seq_len=8,
    image_size=32,
    encoder_width=16,
    encoder_depth=1,
    encoder_heads=2,
    decoder_width=16,
    decoder_depth=1,
    decoder_heads=2,
    text_width=32,
)
TEXT = ClipTextConfig(width=32, depth=2, num_heads=2, projection_width=16)
MEISSONIC = MeissonicConfig(
    codebook_size=32,
    vocabulary=40,
    side=4,
    width=16,
    num_heads=2,
    depth=1,
    single_depth=1,
    mlp_width=32,
    text_width=32,
    pooled_width=16,
    sinusoid_width=8,
    rotary_widths=(2, 2, 4),
)
VQ = {
    "block_out_channels": [32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 6,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "num_vq_embeddings": 32,
    "mid_block_add_attention": False,
    "lookup_from_codebook": True,
}


def maskgit_teacher():
    torch.manual_seed(0)
    return MaskGitTeacher(MaskGit(MASKGIT), VqGan(VQGAN))


def maskgen_teacher():
    torch.manual_seed(0)
    teacher = MaskGenTeacher(MaskGen(MASKGEN), TaTiTok(TATITOK), ClipText(TEXT), 6.5)
    for block in teacher.network.blocks:  # adaLN starts at zero, where conditions have no effect
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return teacher


def halton_teacher():
    torch.manual_seed(0)
    teacher = HaltonTeacher(HaltonMaskGit(HALTON), VqGan(LLAMAGEN), 1.7)
    for block in teacher.network.transformer.layers:
        torch.nn.init.normal_(block.mlp[1].weight, std=0.5)
    return teacher


def meissonic_teacher():
    torch.manual_seed(0)
    return MeissonicTeacher(Meissonic(MEISSONIC), vq_model(VQ), ClipText(TEXT))


FAMILIES = {
    "maskgit": (maskgit_teacher, [0, 4, 2, 1]),
    "halton": (halton_teacher, [0, 4, 2, 1]),
    "maskgen": (maskgen_teacher, ["a red apple", "two dogs", "a boat", "a chair"]),
    "meissonic": (meissonic_teacher, ["a red apple", "two dogs", "a boat", "a chair"]),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    build, wanted = FAMILIES[request.param]
    return build(), wanted


def test_a_family_samples_decodes_and_refines(family, rng):
    teacher, wanted = family
    condition = teacher.condition(wanted)
    tokens = sample(teacher, condition, 4, generator=rng)
    assert tokens.shape == (4, teacher.seq_len)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < teacher.codebook_size <= teacher.mask_id
    images = teacher.decode(teacher.codebook[tokens], condition)
    assert images.shape == (4, 3, teacher.image_size, teacher.image_size)
    guidance, temperature = teacher.refinement(torch.tensor([0.1, 0.4, 0.8, 1.0]), None, None)
    refined = refine(teacher, tokens, condition, 0.5, guidance_scale=guidance, temperature=temperature, generator=rng)
    assert torch.equal(refined.tokens[~refined.is_masked], tokens[~refined.is_masked])


def test_a_family_distils(family, rng):
    """Gradient of the whole objective reaches the student and nothing else."""
    teacher, wanted = family
    lift = Lift(teacher, LiftConfig(space="pixel"))
    student = type(teacher.network)(teacher.network.config).requires_grad_(True)
    student.load_state_dict(teacher.network.state_dict())
    result = fixed_point_loss(student, teacher, lift, teacher.condition(wanted), ObjectiveConfig(), generator=rng)
    result.loss.backward()
    assert result.loss.isfinite()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_an_exported_student_opens_and_draws_the_same(family, tmp_path):
    teacher, wanted = family
    how = GenerationConfig(init_mask_ratio=0.75)
    save_generator(tmp_path / "s", teacher, teacher.network, how, {"name": "x"}, "card", dtype=torch.float32)
    a = Generator(teacher, how, {}).generate(wanted, seed=3)
    assert torch.equal(load_generator(tmp_path / "s").generate(wanted, seed=3), a)
    assert 0 <= float(a.min()) <= float(a.max()) <= 1


def test_bfloat16_autocast_stays_inside_the_transformer(family):
    teacher, wanted = family
    condition = teacher.condition(wanted)
    tokens = torch.full((4, teacher.seq_len), teacher.mask_id)
    exact = teacher.logits(tokens, condition)
    teacher.autocast = True
    rough = teacher.logits(tokens, condition)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.1 * exact.abs().max()
    assert teacher.decode(teacher.codebook[torch.zeros_like(tokens)], condition).dtype == torch.float32


def test_maskgit_never_draws_the_mask_id_though_the_network_scores_it():
    teacher = maskgit_teacher()
    with torch.no_grad():
        teacher.network.bias[:, 32] = 50.0  # the network would all but always answer "mask"
    condition = teacher.condition([0, 1])
    scores = teacher.network(torch.full((2, 16), 32), condition.labels)
    assert (scores.argmax(-1) == 32).all()
    assert teacher.logits(torch.full((2, 16), 32), condition).shape == (2, 16, 32)
    assert int(sample(teacher, condition, 2, generator=torch.Generator().manual_seed(0)).max()) < 32


def test_guidance_conventions_of_the_three_families():
    """MaskGIT writes (1 + w) c - w u, MaskGen c + s (c - u), Meissonic u + g (c - u)."""
    teacher, wanted = maskgit_teacher(), [0, 4]
    condition = teacher.condition(wanted)
    tokens = torch.full((2, 16), teacher.mask_id)
    c, u = teacher.logits(tokens, condition), teacher.logits(tokens, teacher.null_condition(condition))
    w = 3.0
    torch.testing.assert_close(teacher.guided_logits(tokens, condition, 1 + w), (1 + w) * c - w * u)
    torch.testing.assert_close(teacher.guided_logits(tokens, condition, 1 + w), c + w * (c - u))
    per_image = teacher.guided_logits(tokens, condition, torch.tensor([1.0, 4.0]))
    torch.testing.assert_close(per_image[0], c[0])
    torch.testing.assert_close(per_image[1], (1 + w) * c[1] - w * u[1])


def test_maskgits_softmax_temperature_is_the_inverse_of_ours():
    """v1 multiplies the logits by 1.3, which sharpens; a temperature here divides them."""
    teacher = maskgit_teacher()
    condition = teacher.condition([0, 4])
    logits = teacher.logits(torch.full((2, 16), teacher.mask_id), condition)
    options = {"guidance_scale": 1.0, "guidance_start": None, "softmax_temperature": 1 / 1.3}
    tokens = sample(teacher, condition, 1, generator=torch.Generator().manual_seed(3), **options)
    sharper = (1.3 * logits).softmax(-1).flatten(0, 1)
    expected = torch.multinomial(sharper, 1, generator=torch.Generator().manual_seed(3)).view(2, 16)
    assert torch.equal(tokens, expected)
    assert sharper.max() > logits.softmax(-1).max()


def test_default_samplers_are_the_published_ones():
    v1 = maskgit_teacher().sampler
    at = [v1.progress(step, 8) for step in range(8)]
    assert [float(v1.guidance_at(torch.tensor(p))) - 1 for p in at] == pytest.approx([3 * k / 7 for k in range(8)])
    assert (v1.rule, v1.schedule, v1.confidence_temperature) == ("v1", "arccos", 4.5)
    second = maskgen_teacher().sampler
    assert (second.rule, second.schedule, second.confidence, second.annealed_draws) == (
        "floor",
        "arccos",
        "logit",
        True,
    )
    at = [second.progress(step, 16) for step in (0, 7, 15)]  # rows 1, 8 and 16 of the published table
    assert [float(second.guidance_at(torch.tensor(p))) - 1 for p in at] == pytest.approx([1.106, 6.5, 12], abs=5e-4)
    assert [float(second.softmax_temperature_at(torch.tensor(p))) for p in at] == pytest.approx([1.25, 0.9, 0.5])
    assert [second.confidence_temperature * (1 - p) for p in at] == [1.875, 1.0, 0.0]
    third = meissonic_teacher().sampler
    assert [third.confidence_temperature * (1 - third.progress(k, 5)) for k in range(5)] == [2, 1.5, 1, 0.5, 0]
    assert (third.guidance_scale, third.guidance_start, third.schedule) == (9.0, None, "cosine")
    assert third.timestep == "step_index"
    fourth = halton_teacher().sampler_options("halton", {})
    assert (fourth.rule, fourth.guidance_scale, fourth.guidance_start) == ("truncated", 1.7, None)
    assert (fourth.softmax_temperature, fourth.multiplier, fourth.shift) == (1.0, None, None)


def test_in_halton_order_v1_keeps_one_guidance_and_the_plan_is_truncated(rng):
    """The authors' Halton sampler ramps nothing; an image begins elsewhere only where that is asked for."""
    teacher, seen = maskgit_teacher(), []
    logits = teacher.logits
    teacher.logits = lambda tokens, condition, **how: seen.append(tokens) or logits(tokens, condition, **how)
    options = teacher.sampler_options("halton", {})
    assert [float(options.guidance_at(torch.tensor(p))) for p in (0.0, 0.5, 1.0)] == [4.0] * 3
    for shift in (None, True):
        seen.clear()
        tokens = sample(teacher, teacher.condition([0, 1]), 4, "halton", generator=rng, shift=shift)
        maps = [*seen[::2], tokens]  # conditional branches
        fixed = [(before != after) & (before == 32) for before, after in pairwise(maps)]
        assert [int(each[0].sum()) for each in fixed] == reveal_plan(16, 4, "arccos", "truncated")
        first = [set(each[0].nonzero().flatten().tolist()) for each in fixed]
        assert (first[0] == set(halton_order(4)[: len(first[0])])) == (shift is None)


def test_the_bundled_worlds_keep_the_halton_order_they_were_measured_in():
    for family in (FashionTeacher, ScenesTeacher):
        assert family.halton_changes == {"rule": "corrected", "shift": True}


def test_refinement_guidance_of_each_family():
    ratio = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    assert maskgit_teacher().refinement(ratio, None, None) == (2.0, 1.0)
    assert meissonic_teacher().refinement(ratio, None, None) == (4.0, 1.0)
    assert halton_teacher().refinement(ratio, None, None) == (1.7, 1.0)
    scale, temperature = maskgen_teacher().refinement(ratio, None, None)
    progress = torch.cos(torch.pi * ratio / 2)
    torch.testing.assert_close(scale, 2 + 11 * (1 - torch.cos(torch.pi * progress)) / 2)
    torch.testing.assert_close(temperature, 0.5 + 0.8 * (1 - progress))
    assert maskgen_teacher().refinement(ratio, 4.0, 1.0) == (4.0, 1.0)


def test_maskgen_gives_generator_and_decoder_their_own_text_features():
    teacher = maskgen_teacher()
    condition = teacher.condition("a red apple")
    assert isinstance(condition, TextCondition)
    features = teacher.text(teacher.text.tokenize(["a red apple"]))
    assert torch.equal(condition.tokens, features.penultimate)
    assert torch.equal(condition.pooled, features.pooled)
    assert torch.equal(condition.decoder, features.final)
    vectors = teacher.codebook[torch.zeros(1, 8, dtype=torch.long)]
    assert torch.equal(teacher.decode(vectors, condition), teacher.tokenizer.decode(vectors, features.final))


def test_the_null_condition_is_the_empty_prompt_with_the_same_aesthetic_score():
    teacher, seen = maskgen_teacher(), []
    condition = teacher.condition(["a red apple", "two dogs"])
    null, empty = teacher.null_condition(condition), teacher.condition(["", ""])
    torch.testing.assert_close(null.tokens, empty.tokens)
    torch.testing.assert_close(null.pooled, empty.pooled)

    def network(tokens, text, pooled, score, *rest):
        seen.append(score.tolist())
        return torch.zeros(*tokens.shape, 32)

    for each in (condition, null):
        teacher.logits(torch.zeros(2, 8, dtype=torch.long), each, network=network)
    assert seen == [[6.5, 6.5]] * 2


def test_images_come_out_in_zero_to_one():
    """VQGAN decodes to [-1, 1], TA-TiTok to [0, 1]."""
    teacher = maskgit_teacher()
    vectors = teacher.codebook[torch.arange(16)[None]]
    raw = teacher.tokenizer.decode(vectors)
    torch.testing.assert_close(teacher.decode(vectors, teacher.condition([0])), (raw + 1) / 2)


@pytest.mark.parametrize("name", ["maskgen", "meissonic"])
def test_prompts_may_come_in_every_form_a_source_has(name):
    teacher = FAMILIES[name][0]()
    whole = teacher.condition(["a cat", "a dog"])
    assert torch.equal(teacher.condition(PromptCondition(("a cat", "a dog"))).tokens, whole.tokens)
    torch.testing.assert_close(teacher.condition("a dog").tokens[0], whole.tokens[1])
    assert torch.equal(teacher.condition(whole).tokens, whole.tokens)
    with pytest.raises(ValueError, match="give a prompt"):
        teacher.condition([3, 4])
    with pytest.raises(ValueError, match="give a prompt"):
        teacher.condition(torch.tensor([3]))


@pytest.mark.parametrize("name", ["maskgen", "meissonic"])
def test_kept_captions_are_those_of_the_tower(name):
    teacher = FAMILIES[name][0]()
    prompts = ["a cat", "two dogs", "a cat"]
    alone = [teacher.encode([prompt]) for prompt in prompts]
    teacher.captions = CaptionCache(8)
    for _ in range(2):
        found = teacher.condition(prompts)
        for field in ("tokens", "pooled", "decoder"):
            assert torch.equal(getattr(found, field), torch.cat([getattr(one, field) for one in alone]))


def test_meissonic_is_told_the_step_by_the_sampler_and_the_masked_share_elsewhere(rng):
    teacher, seen = meissonic_teacher(), []
    run = teacher._run
    teacher._run = lambda network, *inputs: seen.append(inputs[4]) or run(network, *inputs)
    condition = teacher.condition(["a cat", "a dog"])
    sample(teacher, condition, 3, generator=rng)
    assert [told.tolist() for told in seen] == [[step] * 2 for step in (2.0, 2.0, 1.0, 1.0, 0.0, 0.0)]
    seen.clear()
    sample(teacher, condition, 3, generator=rng, timestep=None)
    assert [round(told[0].item() * 16 / 1000) for told in seen[::2]] == [16, 13, 7]
    tokens = torch.full((2, 16), teacher.mask_id).scatter(1, torch.tensor([[0], [1]]), 3)
    seen.clear()
    teacher.logits(tokens, condition)
    assert seen[0].tolist() == [937.5, 937.5]
    with pytest.raises(ValueError, match="MaskGitTeacher reads no timestep"):
        sample(maskgit_teacher(), maskgit_teacher().condition([0]), 2, timestep="step_index")


def test_a_negative_prompt_takes_the_place_of_the_empty_one(rng):
    teacher, seen = meissonic_teacher(), []
    logits = teacher.logits
    teacher.logits = lambda tokens, condition, **how: seen.append(condition) or logits(tokens, condition, **how)
    sample(teacher, teacher.condition(["a cat", "a dog"]), 2, generator=rng, negative_prompt="blurry")
    blurry = teacher.condition(["blurry", "blurry"])
    torch.testing.assert_close(seen[1].tokens, blurry.tokens)
    torch.testing.assert_close(seen[1].pooled, blurry.pooled)
    seen.clear()
    sample(teacher, teacher.condition(["a cat", "a dog"]), 2, generator=rng)
    torch.testing.assert_close(seen[1].tokens, teacher.condition(["", ""]).tokens)
    with pytest.raises(ValueError, match="draws classes 0 to 4"):
        sample(maskgit_teacher(), maskgit_teacher().condition([0]), 2, negative_prompt="blurry")


def test_the_size_decides_which_files_are_opened():
    places = {
        "maskgit": {},
        "halton": {"size": "large", "image_size": 384},
        "maskgen": {"size": "xl"},
        "meissonic": {"tower": "laion"},
    }
    names = {
        name: [file.file.filename for file in teacher_config({"name": name} | fields).required_files()]
        for name, fields in places.items()
    }
    assert names["halton"] == ["ImageNet_384_large.pth", "vq_ds16_c2i.pt"]
    assert teacher_config({"name": "halton"}).transformer == Path("weights/halton/ImageNet_256_base.pth")
    assert teacher_config({"name": "halton", "size": "tiny"}).transformer.name == "ImageNet_256_tiny.pth"
    assert teacher_config({"name": "maskgen", "size": "xl"}).transformer.name == "maskgen_vq_xl.safetensors"
    tower = teacher_config({"name": "meissonic", "tower": "laion"})
    assert tower.text_encoder.name == "clip_vit_h14_laion2b.safetensors"
    assert tower.required_files()[3].file.repo_id == "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    own = teacher_config({"name": "halton", "size": "small", "transformer": "here.pth"})
    assert own.transformer == Path("here.pth")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"size": "large"},
            "there is no large model for 256 px; published are base at 256, tiny at 256, small at 256, ",
        ),
        ({"size": "tiny", "image_size": 384}, "there is no tiny model for 384 px"),
        ({"size": "Large", "image_size": 384}, "'tiny', 'small', 'base' or 'large'"),
        ({"size": ["small"]}, "'tiny', 'small', 'base' or 'large'"),
        ({"image_size": 512}, "there is no base model for 512 px"),
        ({"image_size": [256]}, "valid integer"),
    ],
)
def test_sizes_nobody_published_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message) as error:
        teacher_config({"name": "halton"} | fields)
    assert "\n" not in str(error.value)


def halton_files(folder, network, tokenizer):
    """As published: both names of the tied table, the optimizer beside; LlamaGen's keys under `model`, with its log."""
    state = network.state_dict()
    extra = {"head.weight": state["tok_emb.weight"]} if "reg_tokens.weight" in state else {}
    content = {"iter": 1, "model_state_dict": state | extra, "optimizer_state_dict": {"state": {0: torch.zeros(3)}}}
    torch.save(content, folder / "t.pth")
    log = {"quantize.codebook_used": torch.zeros(9)} if tokenizer.config.unit_codes else {}
    torch.save({"model": tokenizer.state_dict() | log}, folder / "v.pt")
    return {"transformer": str(folder / "t.pth"), "tokenizer": str(folder / "v.pt")}


@pytest.fixture
def small_halton(monkeypatch):
    monkeypatch.setattr(halton, "NETWORKS", dict.fromkeys(halton.NETWORKS, HALTON))
    monkeypatch.setattr(halton, "SIDE", 64)  # 4 x 4 codes at 256 px, 6 x 6 at 384
    monkeypatch.setattr(halton, "LLAMAGEN_VQ16", LLAMAGEN)
    monkeypatch.setattr(maskgit, "MaskGitConfig", lambda: MASKGIT)
    monkeypatch.setattr(maskgit, "VqGanConfig", lambda: VQGAN)


def test_public_halton_files_load_through_the_teacher(tmp_path, small_halton):
    source = halton_teacher()
    loaded = load_teacher({"name": "halton"} | halton_files(tmp_path, source.network, source.tokenizer))
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), source.state_dict().values(), strict=True)
    )
    assert loaded.refine_guidance == 1.7


def test_a_file_whose_tied_names_differ_is_refused(tmp_path, small_halton):
    source = halton_teacher()
    paths = halton_files(tmp_path, source.network, source.tokenizer)
    state = source.network.state_dict()
    torch.save({"model_state_dict": state | {"head.weight": state["tok_emb.weight"] + 1}}, tmp_path / "t.pth")
    with pytest.raises(CheckpointError, match=r"head\.weight and tok_emb\.weight are tied"):
        load_teacher({"name": "halton"} | paths)


@pytest.mark.parametrize(
    ("wanted", "given", "message"),
    [
        ("halton", (maskgit_teacher, {}), "holds a MaskGIT v1 transformer, which the teacher `maskgit` reads"),
        ("maskgit", (halton_teacher, {}), "holds a Halton-MaskGIT v2 transformer, which the teacher `halton` reads"),
        ("halton", (halton_teacher, {"seq_len": 36}), "file is for 36 positions instead of 16, another image size"),
        ("halton", (halton_teacher, {"width": 37}), "network is 37 channels wide instead of 25, another size"),
    ],
)
def test_transformers_of_other_models_are_named_in_one_sentence(tmp_path, small_halton, wanted, given, message):
    build, changes = given
    source = build()
    network = type(source.network)(source.network.config.model_copy(update=changes))
    tokenizer = (halton_teacher if wanted == "halton" else maskgit_teacher)().tokenizer
    with pytest.raises(CheckpointError, match=message) as error:
        load_teacher({"name": wanted} | halton_files(tmp_path, network, tokenizer))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("wanted", "given"), [("halton", maskgit_teacher), ("maskgit", halton_teacher)])
def test_tokenizers_of_other_models_are_named_in_one_sentence(tmp_path, small_halton, wanted, given):
    network = (halton_teacher if wanted == "halton" else maskgit_teacher)().network
    with pytest.raises(CheckpointError, match=r"the file's codebook is .* another tokenizer's") as error:
        load_teacher({"name": wanted} | halton_files(tmp_path, network, given().tokenizer))
    assert "\n" not in str(error.value)


def test_a_class_family_asked_for_a_prompt_says_what_it_draws():
    with pytest.raises(ValueError, match="draws classes 0 to 4"):
        maskgit_teacher().condition(["a cat"])


def test_public_files_load_through_the_teacher(tmp_path, monkeypatch):
    """Files in the published containers: a torch dict under model_state_dict, a Lightning file with loss weights."""
    monkeypatch.setattr(maskgit, "MaskGitConfig", lambda: MASKGIT)
    monkeypatch.setattr(maskgit, "VqGanConfig", lambda: VQGAN)
    source = maskgit_teacher()
    torch.save({"iter": 1, "model_state_dict": source.network.state_dict()}, tmp_path / "m.pth")
    extra = {"loss.discriminator.main.0.weight": torch.zeros(3)}
    torch.save({"state_dict": source.tokenizer.state_dict() | extra, "callbacks": {}}, tmp_path / "v.ckpt")
    config = {"name": "maskgit", "transformer": str(tmp_path / "m.pth"), "tokenizer": str(tmp_path / "v.ckpt")}
    loaded = load_teacher(config)
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), source.state_dict().values(), strict=True)
    )
    with pytest.raises(CheckpointError, match="VQGAN"):
        load_teacher(config | {"transformer": str(tmp_path / "v.ckpt")})


def test_maskgen_files_load_with_either_name_of_the_tied_head(tmp_path, monkeypatch):
    for name, value in (("MaskGenConfig", MASKGEN), ("TaTiTokConfig", TATITOK), ("ClipTextConfig", TEXT)):
        monkeypatch.setattr(maskgen, name, lambda value=value, **_: value)
    source = maskgen_teacher()
    head = {"lm_head.weight": source.network.embeddings.weight}
    torch.save(source.network.state_dict() | head, tmp_path / "g.bin")
    save_file(source.tokenizer.state_dict(), tmp_path / "t.safetensors")
    save_file(source.text.state_dict(), tmp_path / "c.safetensors")
    paths = {"transformer": "g.bin", "tokenizer": "t.safetensors", "text_encoder": "c.safetensors"}
    loaded = load_teacher({"name": "maskgen"} | {part: str(tmp_path / file) for part, file in paths.items()})
    assert torch.equal(loaded.network.embeddings.weight, source.network.embeddings.weight)


@pytest.mark.parametrize(("name", "count"), [("maskgit", 2), ("halton", 2), ("maskgen", 3), ("meissonic", 4)])
def test_absent_files_are_all_named_with_their_source(name, count):
    with pytest.raises(CheckpointError) as error:
        load_teacher(name)
    text = str(error.value)
    assert text.count("huggingface.co/") == count
    assert f"fpd-train weights pull {name}" in text


@pytest.mark.parametrize(
    ("teacher", "smoothing"),
    [(FashionTeacher, 0.0), (ScenesTeacher, 0.0), (HaltonTeacher, 0.0), (MaskGitTeacher, 0.1), (MaskGenTeacher, 0.1)],
)
def test_a_family_knows_the_label_smoothing_of_its_training(teacher, smoothing):
    """MaskGIT v1 and MaskGen were trained with 0.1, v2 and the bundled worlds without."""
    assert teacher.label_smoothing == smoothing


@pytest.mark.parametrize("name", ["meissonic", "halton"])
def test_the_architecture_is_json(name):
    assert json.loads(json.dumps(FAMILIES[name][0]().architecture()))["name"] == name
