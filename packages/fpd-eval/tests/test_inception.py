"""The Inception variants give what torch-fidelity's and clean-fid's own pipelines give, on random weights of the
libraries' own architecture."""

import io

import numpy as np
import pytest
import torch
from cleanfid.fid import get_folder_features
from cleanfid.inception_torchscript import InceptionV3W
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from fpd_core.checkpoints import CheckpointError
from fpd_eval.extractors import load_extractor
from fpd_eval.metrics import inception_score

CPU = torch.device("cpu")


class TorchScriptInception(nn.Module):
    """The interface of NVIDIA's file: `layers` of normalised 299-pixel images, and a forward that resizes itself."""

    def __init__(self, layers: torch.jit.ScriptModule):
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = F.interpolate(x, size=[299, 299], mode="bilinear", align_corners=False)
        return self.layers((x - 128) / 128)


class Layers(nn.Module):
    """The first layer, to the 2048 values that clean-fid expects: what is tested is what happens before it."""

    def __init__(self, network):
        super().__init__()
        self.start = nn.Sequential(network.Conv2d_1a_3x3, nn.AdaptiveAvgPool2d(8))

    def forward(self, x):
        return self.start(x).flatten(1)


@pytest.fixture(scope="session")
def inception_state():
    """Weights of torch-fidelity's architecture whose features spread and whose classes differ."""
    random = torch.Generator().manual_seed(0)
    empty = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        # The constructor insists on loading a file; an empty one gives the shapes.
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.save({}, empty)
        empty.seek(0)
        blank = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=empty)
    state = {}
    for name, value in blank.state_dict().items():
        if name.endswith("conv.weight") or name == "fc.weight":
            fan_in = value[0].numel()
            scale = 3 if name == "fc.weight" else 1
            state[name] = scale * torch.randn(value.shape, generator=random) * (2 / fan_in) ** 0.5
        elif name.endswith("fc.bias"):
            state[name] = torch.randn(value.shape, generator=random)
        else:
            state[name] = value
    return state


@pytest.fixture(scope="session")
def weights(inception_state, tmp_path_factory):
    """Both weight files."""
    folder = tmp_path_factory.mktemp("inception")
    torch.save(inception_state, folder / "fidelity.pth")
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(folder / "fidelity.pth")
    )
    layers = torch.jit.trace(Layers(network).eval(), torch.zeros(1, 3, 299, 299))
    torch.jit.script(TorchScriptInception(layers)).save(str(folder / "inception-2015-12-05.pt"))
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """uint8 [6, 3, 40, 40] and the same as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = torch.randint(256, (6, 3, 40, 40), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    pixels = noise // torch.arange(1, 7, dtype=torch.uint8).view(6, 1, 1, 1)
    for i, image in enumerate(pixels):
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / f"{i:03d}.png")
    return pixels, folder


def test_fidelity_features_are_torch_fidelitys(weights, pictures):
    pixels, _ = pictures
    ours = load_extractor("inception_fidelity", CPU, weights / "fidelity.pth")(pixels)
    layers = ["2048", "logits_unbiased"]
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", layers, feature_extractor_weights_path=str(weights / "fidelity.pth")
    )
    features, logits = theirs(pixels)
    assert torch.equal(ours["features"], features)
    assert torch.equal(ours["logits"], logits)
    assert ours["features"].shape == (6, 2048)
    assert float(features.std(0).mean()) > 0


def test_spatial_features_are_seven_channels_of_mixed_6_conv(weights, pictures):
    """The same layers called one after the other; ADM flattens height, width, channel."""
    pixels, _ = pictures
    extractor = load_extractor("inception_fidelity", CPU, weights / "fidelity.pth")
    spatial = extractor(pixels[:2])["spatial"]
    seen = []
    extractor.network.Mixed_6d.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    extractor(pixels[:2])
    block = extractor.network.Mixed_6d.branch1x1
    convolved = F.relu(block.bn(block.conv(seen[0])))
    assert spatial.shape == (2, 17 * 17 * 7)
    assert float(spatial[1].view(17, 17, 7)[3, 5, 6]) == float(convolved[1, 6, 3, 5])
    assert torch.equal(spatial.view(2, 17, 17, 7).permute(0, 3, 1, 2), convolved[:, :7])


def test_inception_score_of_a_folder_is_torch_fidelitys(weights, pictures):
    pixels, folder = pictures
    logits = load_extractor("inception_fidelity", CPU, weights / "fidelity.pth")(pixels)["logits"]
    expected = calculate_metrics(
        input1=str(folder),
        isc=True,
        cuda=False,
        isc_splits=2,
        save_cpu_ram=True,
        verbose=False,
        feature_extractor_weights_path=str(weights / "fidelity.pth"),
    )
    mean, std = inception_score(logits, 2)
    assert mean > 1.001
    assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert std == pytest.approx(expected["inception_score_std"], rel=1e-4)


@pytest.mark.parametrize(
    ("extractor", "mode"), [("inception_tensorflow", "legacy_tensorflow"), ("inception_clean", "clean")]
)
def test_clean_fid_features_are_those_of_its_folder_pipeline(weights, pictures, extractor, mode):
    pixels, folder = pictures
    model = InceptionV3W(str(weights), download=False, resize_inside=mode == "legacy_tensorflow")
    expected = get_folder_features(
        str(folder), model, num_workers=0, batch_size=6, device=CPU, mode=mode, verbose=False
    )
    ours = load_extractor(extractor, CPU, weights / "inception-2015-12-05.pt")(pixels)["features"]
    assert np.array_equal(ours.numpy(), expected)
    assert ours.shape == (6, 2048)


def test_the_variants_differ(weights, pictures):
    pixels, _ = pictures
    one, other = (
        load_extractor(name, CPU, weights / "inception-2015-12-05.pt")(pixels)["features"]
        for name in ("inception_tensorflow", "inception_clean")
    )
    assert not torch.allclose(one, other, atol=1e-2)


def test_absent_weights_are_answered_with_their_place_and_publisher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"weights/inception/inception-2015-12-05\.pt does not exist.*nvlabs"):
        load_extractor("inception_tensorflow", CPU)
    with pytest.raises(CheckpointError, match=r"6726825d\.pth does not exist.*github\.com/toshas/torch-fidelity"):
        load_extractor("inception_fidelity", CPU)


def test_damaged_and_foreign_weights_are_named(tmp_path, weights):
    (tmp_path / "damaged.pth").write_bytes((weights / "fidelity.pth").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"damaged\.pth is damaged"):
        load_extractor("inception_fidelity", CPU, tmp_path / "damaged.pth")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match=r"foreign\.pth does not fit Inception"):
        load_extractor("inception_fidelity", CPU, tmp_path / "foreign.pth")
    (tmp_path / "inception-2015-12-05.pt").write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match="damaged or not the TorchScript Inception"):
        load_extractor("inception_clean", CPU, tmp_path / "inception-2015-12-05.pt")
    with pytest.raises(CheckpointError, match=r"must be called inception-2015-12-05\.pt"):
        load_extractor("inception_clean", CPU, tmp_path / "damaged.pth")


def test_weight_files_are_not_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"fc.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(CheckpointError, match=r"trap\.pth"):
        load_extractor("inception_fidelity", CPU, tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()
