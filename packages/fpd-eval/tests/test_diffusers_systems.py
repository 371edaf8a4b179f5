"""Diffusers pipelines as systems: tiny random networks, and the sampling rules written out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    LCMScheduler,
    LDMTextToImagePipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, get_peft_model_state_dict
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from fpd_core.checkpoints import CheckpointError
from fpd_core.conditioning import ClassCondition, PromptCondition
from fpd_core.config import ConfigError
from fpd_eval.report.published import published
from fpd_eval.systems import read_system
from fpd_eval.systems.diffusion import DiffusersKind
from fpd_eval.systems.flow_schedulers import OneStepScheduler, RectifiedFlowScheduler

CPU = torch.device("cpu")
PROMPTS = PromptCondition(("a red bench", "two dogs", "a hat"))
CONFIGS = sorted(Path("configs/systems").glob("*.json"))


def make_unet(seed, cross=16, **options):
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    blocks |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "block_out_channels": (8, 16)}
    sizes = {"sample_size": 8, "layers_per_block": 1, "cross_attention_dim": cross, "attention_head_dim": 4}
    return UNet2DConditionModel(**blocks, **sizes, norm_num_groups=4, **options)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A pipeline as its authors publish it, a second UNet as a folder and as a file, and low-rank weights."""
    root = tmp_path_factory.mktemp("hub")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (root / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (root / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=54, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=52, eos_token_id=53, pad_token_id=53,
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
                        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, sample_size=16)  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(str(root / "vocab.json"), str(root / "merges.txt"), model_max_length=77),
        unet=make_unet(1),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(root / "base")
    other = make_unet(2)
    other.save_pretrained(root / "other")
    torch.save(other.state_dict(), root / "other_unet.bin")
    make_unet(3, time_cond_proj_dim=6).save_pretrained(root / "lcm")
    adapted = make_unet(1)
    adapted.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    low_rank = get_peft_model_state_dict(adapted)
    StableDiffusionPipeline.save_lora_weights(root / "lora", unet_lora_layers=low_rank)
    elsewhere = {name.replace("mid_block", "middle_block"): value for name, value in low_rank.items()}
    StableDiffusionPipeline.save_lora_weights(root / "lora_of_another", unet_lora_layers=elsewhere)
    return root


def system(parts, **options):
    section = {"name": "rival", "pipeline": "StableDiffusionPipeline", "base": {"repo": str(parts / "base")}}
    section |= {"steps": 2, "guidance_scale": 0.0, "dtype": "float32"} | options
    return DiffusersKind.model_validate(section).load(CPU)


def called(parts, change=lambda pipeline: None, **options):
    """The same call on diffusers itself."""
    pipeline = StableDiffusionPipeline.from_pretrained(parts / "base", safety_checker=None)
    change(pipeline)
    generator = torch.Generator().manual_seed(7)
    made = pipeline(list(PROMPTS.prompts), generator=generator, output_type="np", **options).images
    return torch.tensor(made).permute(0, 3, 1, 2)


def test_images_are_those_of_the_pipeline(parts):
    rival = system(parts, steps=3, guidance_scale=4.0, negative_prompt="a rat")
    images = rival.images(PROMPTS, seed=7)
    assert images.shape == (3, 3, 16, 16)
    assert 0 <= images.min() < images.max() <= 1
    expected = called(parts, num_inference_steps=3, guidance_scale=4.0, negative_prompt=["a rat"] * 3)
    assert torch.equal(images, expected)
    assert torch.equal(rival.images(PROMPTS, seed=7), expected)
    assert not torch.equal(rival.images(PROMPTS, seed=8), expected)
    assert (rival.name, rival.steps, rival.network_evaluations) == ("rival", 3, 6)


def test_an_unet_comes_from_a_folder_or_from_one_file(parts):
    def change(pipeline):
        pipeline.unet = UNet2DConditionModel.from_pretrained(parts / "other")

    expected = called(parts, change, num_inference_steps=2, guidance_scale=0.0)
    for unet in ({"repo": str(parts / "other")}, {"repo": str(parts), "file": "other_unet.bin"}):
        assert torch.equal(system(parts, unet=unet).images(PROMPTS, seed=7), expected)
    assert not torch.equal(system(parts).images(PROMPTS, seed=7), expected)


def test_the_lcm_scheduler_runs_at_given_times(parts):
    def change(pipeline):
        pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)

    rival = system(parts, scheduler={"name": "LCMScheduler"}, steps=1, timesteps=[399])
    assert torch.equal(rival.images(PROMPTS, seed=7), called(parts, change, timesteps=[399], guidance_scale=0.0))
    with pytest.raises(ValueError, match="2 timesteps for 1 steps"):
        system(parts, steps=1, timesteps=[3, 4])


def test_guidance_as_an_input_costs_no_second_pass(parts):
    unet, scheduler = {"repo": str(parts / "lcm")}, {"name": "LCMScheduler"}
    rival = system(parts, unet=unet, scheduler=scheduler, guidance_scale=8.0)
    assert rival.network_evaluations == 2
    assert rival.images(PROMPTS, seed=0).isfinite().all()


def test_low_rank_weights_move_the_unet_by_their_scale(parts):
    plain = system(parts).images(PROMPTS, seed=7)
    half, whole = (
        system(parts, lora={"repo": str(parts / "lora"), "scale": scale}).images(PROMPTS, seed=7)
        for scale in (0.5, 1.0)
    )

    def change(pipeline):
        pipeline.load_lora_weights(parts / "lora")

    assert torch.equal(whole, called(parts, change, num_inference_steps=2, guidance_scale=0.0))
    assert not torch.equal(plain, half)
    assert not torch.equal(half, whole)


def test_fingerprints_follow_weights_and_settings(parts):
    same = [system(parts).fingerprint, system(parts, name="other name", note="n").fingerprint]
    others = [
        system(parts, steps=3).fingerprint,
        system(parts, unet={"repo": str(parts / "other")}).fingerprint,
        system(parts, scheduler={"name": "LCMScheduler"}).fingerprint,
    ]
    assert same[0] == same[1]
    assert len({same[0], *others}) == 4


def test_rectified_flow_is_one_euler_step_along_the_network(parts):
    """InstaFlow's rule: decode ε + v(ε, 1000, text), by the parts of the pipeline."""
    rival = system(parts, scheduler={"name": "RectifiedFlowScheduler"}, steps=1)
    pipeline = StableDiffusionPipeline.from_pretrained(parts / "base", safety_checker=None)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        text = pipeline.encode_prompt(list(PROMPTS.prompts), CPU, 1, False)[0]
        velocity = pipeline.unet(latents, torch.full((3,), 1000.0), encoder_hidden_states=text).sample
        decoded = pipeline.vae.decode((latents + velocity) / pipeline.vae.config.scaling_factor).sample
    expected = (decoded / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(rival.images(PROMPTS, seed=7), expected, rtol=1e-4, atol=1e-5)


def test_rectified_flow_integrates_a_straight_line_exactly():
    scheduler, noise, data = RectifiedFlowScheduler(), torch.randn(5), torch.randn(5)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [1000, 750, 500, 250]
    latents = noise
    for time in scheduler.timesteps:
        (latents,) = scheduler.step(data - noise, time, latents)
    torch.testing.assert_close(latents, data)


def test_one_step_is_the_estimate_of_the_data_by_ddpm():
    """SiD-LSG's rule by diffusers' own DDPM scheduler: noise an empty latent, take `pred_original_sample`."""
    ddpm = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    noise, output = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    time = torch.tensor([625, 625])
    noised = ddpm.add_noise(torch.zeros_like(noise), noise, time)
    expected = ddpm.step(output, 625, noised).pred_original_sample
    ours = OneStepScheduler()
    ours.set_timesteps(1)
    assert ours.timesteps.tolist() == [625]
    torch.testing.assert_close(noise * ours.init_noise_sigma, noised)
    torch.testing.assert_close(ours.step(output, 625, noised)[0], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="takes one step, got 2"):
        ours.set_timesteps(2)


def test_one_step_scheduler_runs_in_a_pipeline(parts):
    rival = system(parts, scheduler={"name": "OneStepScheduler", "options": {"timestep": 600}}, steps=1)
    assert rival.images(PROMPTS, seed=0).shape == (3, 3, 16, 16)


def test_what_cannot_be_opened_is_answered(parts):
    with pytest.raises(CheckpointError, match=r"rival: .*nowhere cannot be read .*name its folder as `repo`"):
        system(parts, base={"repo": str(parts / "nowhere")})
    with pytest.raises(CheckpointError, match=r"absent\.bin"):
        system(parts, unet={"repo": str(parts), "file": "absent.bin"})
    with pytest.raises(CheckpointError, match="lora_of_another does not fit the network"):
        system(parts, lora={"repo": str(parts / "lora_of_another")})
    with pytest.raises(ConfigError, match="diffusers has no scheduler 'LCNScheduler'"):
        system(parts, scheduler={"name": "LCNScheduler"})
    with pytest.raises(ValueError, match="rival makes images of prompts, not of ClassCondition"):
        system(parts).images(ClassCondition(torch.tensor([1])), seed=0)


def test_without_diffusers_the_extra_is_named(parts, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"pip install 'fpd-eval\[diffusers\]'"):
        system(parts)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_sections_are_valid_and_known_to_the_published_tables(path):
    kind = read_system(path)
    assert kind.note
    assert kind.published_as
    values = [*published("geneval_overall", kind.published_as), *published("fid", kind.published_as)]
    assert values
    if isinstance(kind, DiffusersKind):
        assert kind.steps in {value.row.steps for value in values}


def test_every_rival_of_the_paper_has_a_section():
    """FPD table 1, continuous distillation, and the two foundation models with public weights in diffusers."""
    shipped = {(kind.published_as, kind.steps) for kind in map(read_system, CONFIGS) if kind.kind == "diffusers"}
    one_step = {("InstaFlow", 1), ("SiD-LSG", 1), ("SDXL-LCM", 1), ("SDXL-Turbo", 1), ("SDXL-DMD2", 1)}
    assert shipped == one_step | {("RG-LCM (HPS)", 2), ("TDM", 4), ("SDXL-LCM", 4), ("LDM", 50), ("SDXL", 50)}


def test_pixels_keep_their_place(parts):
    """Channels and rows are not swapped on the way from the pipeline's arrays."""
    rival = system(parts)

    class Fixed:
        images = np.arange(2 * 4 * 5 * 3, dtype=np.float32).reshape(2, 4, 5, 3) / 120

    rival._pipeline = lambda *_, **__: Fixed
    assert rival.images(PROMPTS, seed=0)[1, 2, 3, 4] == Fixed.images[1, 3, 4, 2]


def test_sdxl_pipelines_run_as_dmd2_is_published(parts):
    """The XL pipeline with a state dict for its UNet, the LCM scheduler and one given time."""
    base = StableDiffusionPipeline.from_pretrained(parts / "base", safety_checker=None)
    sizes = {"vocab_size": 54, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    torch.manual_seed(5)
    extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    xl = {"projection_class_embeddings_input_dim": 6 * 8 + 12, "transformer_layers_per_block": (1, 1)}
    sdxl = StableDiffusionXLPipeline(
        vae=base.vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(**sizes)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**sizes, projection_dim=12)),
        tokenizer=base.tokenizer,
        tokenizer_2=base.tokenizer,
        unet=make_unet(6, **extra, **xl, cross=32),
        scheduler=base.scheduler,
        add_watermarker=False,
    )
    sdxl.save_pretrained(parts / "sdxl")
    torch.save(make_unet(7, **extra, **xl, cross=32).state_dict(), parts / "dmd2.bin")
    rival = system(
        parts,
        pipeline="StableDiffusionXLPipeline",
        base={"repo": str(parts / "sdxl")},
        unet={"repo": str(parts), "file": "dmd2.bin"},
        scheduler={"name": "LCMScheduler"},
        steps=1,
        timesteps=[399],
        size=16,
    )
    sdxl.unet.load_state_dict(torch.load(parts / "dmd2.bin"))
    sdxl.scheduler = LCMScheduler.from_config(sdxl.scheduler.config)
    generator = torch.Generator().manual_seed(7)
    options = {"timesteps": [399], "guidance_scale": 0.0, "height": 16, "width": 16, "output_type": "np"}
    made = sdxl(list(PROMPTS.prompts), generator=generator, **options).images
    assert rival.network_evaluations == 1
    np.testing.assert_array_equal(rival.images(PROMPTS, seed=7).permute(0, 2, 3, 1), made)


def test_ldm_pipelines_run(parts, tmp_path):
    base = StableDiffusionPipeline.from_pretrained(parts / "base", safety_checker=None)
    ldm = LDMTextToImagePipeline(
        vqvae=base.vae, bert=base.text_encoder, tokenizer=base.tokenizer, unet=base.unet, scheduler=base.scheduler
    )
    ldm.save_pretrained(tmp_path / "ldm")
    section = {"name": "LDM", "pipeline": "LDMTextToImagePipeline", "base": {"repo": str(tmp_path / "ldm")}}
    config = DiffusersKind.model_validate(section | {"steps": 2, "guidance_scale": 6.0, "dtype": "float32"})
    made = config.load(CPU).images(PROMPTS, seed=4)
    options = {"num_inference_steps": 2, "guidance_scale": 6.0, "output_type": "np"}
    expected = ldm(list(PROMPTS.prompts), generator=torch.Generator("cpu").manual_seed(4), **options).images
    assert torch.equal(made, torch.from_numpy(expected).permute(0, 3, 1, 2).float())
