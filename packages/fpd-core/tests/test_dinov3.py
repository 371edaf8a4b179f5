"""DINOv3: the features are those of timm and of transformers, frozen, with gradient to the images."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from fpd_core.backbones import load_backbone
from fpd_core.backbones.dinov3 import Dinov3Config, from_transformers, load_dinov3
from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0Config
from fpd_core.checkpoints import CheckpointError
from fpd_core.lift import LiftConfig

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 2}


def randomize(module):
    """Initial LayerScales hide the blocks; these weights do not."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.ndim < 2 else 0.1))
    return module


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(Dinov3Config(weights="synthetic"))


@pytest.fixture(scope="module")
def timm_file(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("dinov3") / "model.safetensors"
    save_file(backbone.network.state_dict(), path)
    return path


def test_the_maps_are_normalised_residual_streams_without_prefix_tokens(backbone, images):
    """Blocks run one by one; timm's own selection of intermediates is not used."""
    network = backbone.network
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((images.movedim(1, -1) - mean) / std).movedim(-1, 1)
    tokens, rope = network._pos_embed(network.patch_embed(x))
    streams = []
    for block in network.blocks:
        tokens = block(tokens, rope=rope)
        streams.append(torch.nn.functional.layer_norm(tokens, (768,), network.norm.weight, network.norm.bias, 1e-5))
    maps = backbone(images)
    assert [tuple(m.shape) for m in maps] == [(2, 768, 4, 3)] * 4
    for block, features in zip((2, 5, 8, 11), maps, strict=True):
        row, column = 2, 1
        expected = streams[block][:, 5 + row * 3 + column]  # one class and four register tokens come first
        torch.testing.assert_close(features[:, :, row, column], expected, rtol=1e-4, atol=1e-4)


def test_the_last_map_is_timms_output(backbone, images):
    x = timm.data.create_transform((3, 64, 48), crop_pct=1.0).transforms[-1](images)  # timm's own ImageNet statistics
    expected = backbone.network.forward_features(x)[:, 5:].mT.reshape(2, 768, 4, 3)
    torch.testing.assert_close(backbone(images)[-1], expected, rtol=1e-4, atol=1e-4)


def transformers_model():
    transformers = pytest.importorskip("transformers")
    config = transformers.DINOv3ViTConfig(
        hidden_size=24, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2, num_register_tokens=4
    )
    model = randomize(transformers.DINOv3ViTModel(config)).eval()
    for layer in model.model.layer:  # zero in all published weights
        nn.init.zeros_(layer.attention.q_proj.bias)
        nn.init.zeros_(layer.attention.v_proj.bias)
    return model


@pytest.mark.parametrize("prefix", ["layer.", "model.layer."])
def test_transformers_weights_give_transformers_features(tmp_path, prefix):
    """Hidden state k + 1 of transformers is the output of block k."""
    model = transformers_model()
    state = {key.replace("model.layer.", prefix): value for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    network = timm.create_model("vit_base_patch16_dinov3", **SMALL).eval()
    load_dinov3(network, tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        ours = network.forward_intermediates(images, indices=[0, 1, 2], output_fmt="NLC", intermediates_only=True)
        theirs = model(images, output_hidden_states=True).hidden_states
    assert len(theirs) == 4
    for block in range(3):
        torch.testing.assert_close(ours[block], theirs[block + 1][:, 5:], rtol=1e-4, atol=1e-4)


def test_biases_that_timm_cannot_hold_are_refused(tmp_path):
    state = transformers_model().state_dict()
    state["model.layer.1.attention.v_proj.bias"][3] = 0.5
    with pytest.raises(CheckpointError, match=r"layer\.1\.attention\.v_proj\.bias is not zero"):
        from_transformers(state, tmp_path / "w")


def test_gradient_reaches_the_images_and_nothing_else(backbone, images):
    images = images.clone().requires_grad_(True)
    torch.stack([m.square().mean() for m in backbone(images)]).sum().backward()
    assert images.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    assert all(p.grad is None and not p.requires_grad for p in backbone.parameters())


def test_it_stays_in_eval_mode_inside_a_training_parent(backbone):
    parent = nn.ModuleList([backbone]).train()
    assert parent.training
    assert not any(module.training for module in backbone.modules())


def gradient(backbone, images):
    images = images.clone().requires_grad_(True)
    maps = backbone(images)
    torch.stack([m.float().square().mean() for m in maps]).sum().backward()
    return maps, images.grad


def test_checkpointing_and_the_order_of_blocks_change_nothing(backbone, timm_file, images):
    checkpointed = load_backbone(Dinov3Config(path=timm_file, blocks=(11, 2, 8, 5), activation_checkpointing=True))
    calls = []
    checkpointed.network.blocks[3].register_forward_pre_hook(lambda *_: calls.append(1))
    maps, grad = gradient(checkpointed, images)
    assert len(calls) == 2  # once more in backward
    expected_maps, expected = gradient(backbone, images)
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(maps, expected_maps)


def test_rotary_periods_are_rounded_as_in_metas_checkpoints(backbone, timm_file, images):
    """100^(i/16), of which bfloat16 keeps eight bits; timm's own are those of float32."""
    exact = torch.tensor([100 ** (i / 16) for i in range(16)], dtype=torch.float64)
    steps = 2.0 ** (exact.log2().floor() - 7)
    rounded = (exact / steps).round() * steps
    assert Dinov3Config().rope_periods == "bfloat16"
    half = load_backbone(Dinov3Config(path=timm_file, dtype="bfloat16"))
    for network in (backbone.network, half.network):
        assert network.rope.periods.dtype == torch.float32
        assert torch.equal(network.rope.periods.double(), rounded)
    plain = load_backbone(Dinov3Config(path=timm_file, rope_periods="float32"))
    torch.testing.assert_close(plain.network.rope.periods.double(), exact, rtol=1e-6, atol=0)
    difference = (plain(images)[-1] - backbone(images)[-1]).norm() / backbone(images)[-1].norm()
    assert 1e-6 < difference < 1e-2


def test_bfloat16_is_close(backbone, timm_file, images):
    half = load_backbone(Dinov3Config(path=timm_file, dtype="bfloat16"))
    maps, grad = gradient(half, images)
    expected_maps, expected = gradient(backbone, images)
    for one, other in zip(maps, expected_maps, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - other).norm() / other.norm() < 0.03
    assert torch.nn.functional.cosine_similarity(grad.flatten(), expected.flatten(), dim=0) > 0.99


def test_absent_weights_are_named_with_their_source(tmp_path):
    with pytest.raises(CheckpointError, match=r"huggingface\.co/timm/vit_base_patch16_dinov3\.lvd1689m"):
        load_backbone(Dinov3Config(path=tmp_path / "absent.safetensors"))


def test_a_file_of_another_size_is_refused(tmp_path):
    small = timm.create_model("vit_base_patch16_dinov3", **SMALL)
    torch.save(small.state_dict(), tmp_path / "small.pth")
    with pytest.raises(CheckpointError, match=r"small\.pth does not fit Eva: .*45 of wrong shape"):
        load_backbone(Dinov3Config(path=tmp_path / "small.pth"))


def test_images_must_be_whole_patches(backbone):
    with pytest.raises(ValueError, match=r"divisible by 16, got images of \(64, 40\)"):
        backbone(torch.rand(1, 3, 64, 40))


def test_block_indices_are_checked():
    with pytest.raises(ValueError, match="less than or equal to 11"):
        Dinov3Config(blocks=(2, 12))


def test_a_section_without_a_name_is_the_default_backbone():
    assert LiftConfig.model_validate({"backbone": {"blocks": [1]}}).backbone == EfficientNetLite0Config(blocks=(1,))
    assert LiftConfig.model_validate({"backbone": {"name": "dinov3"}}).backbone == Dinov3Config()
    assert LiftConfig().backbone == EfficientNetLite0Config()
    with pytest.raises(ValueError, match="dino4"):
        LiftConfig.model_validate({"backbone": {"name": "dino4"}})
