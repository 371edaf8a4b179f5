"""The COCO FID variant against pytorch-fid's own network and the resize written out."""

import numpy as np
import pytest
import pytorch_fid.inception
import torch
import torchvision
from PIL import Image

from fpd_eval.extractors import load_extractor
from fpd_eval.extractors.inception_coco import CocoInception, coco_resize
from fpd_eval.images.prompts import read_prompts
from fpd_eval.protocols import protocol_called


def picture(seed, width, height):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random Inception weights of the published file's names and shapes."""
    torch.manual_seed(0)
    with torch.random.fork_rng():
        network = torchvision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    state = network.state_dict()
    for name, value in state.items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 4:
            torch.nn.init.kaiming_normal_(value)  # features of about 1, which tell images and scalings apart
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("inception") / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(state, path)
    return path


def test_features_are_those_of_pytorch_fid(weights, monkeypatch):
    """Their network fetches its file from the web; here it is handed the same random weights."""
    monkeypatch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *_, **__: torch.load(weights))
    theirs = pytorch_fid.inception.InceptionV3([3], resize_input=False, normalize_input=True).eval()
    pixels = torch.stack([torch.tensor(np.array(picture(seed, 299, 299))).permute(2, 0, 1) for seed in (0, 1)])
    expected = theirs(pixels / 255)[0].flatten(1)
    found = CocoInception(torch.device("cpu"), weights)(pixels)["features"]
    assert found.shape == (2, 2048)
    assert expected.std(0).mean() > 0.01 * expected.mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_resize_takes_the_central_square_and_rounds():
    image = picture(2, 101, 64)
    pixels = np.asarray(image)[:, 18:82]
    channels = [Image.fromarray(pixels[..., index]).resize((299, 299), Image.Resampling.BICUBIC) for index in range(3)]
    assert torch.equal(coco_resize(image), torch.tensor(np.stack([np.asarray(channel) for channel in channels])))
    tall = picture(3, 40, 75)
    assert torch.equal(coco_resize(tall), coco_resize(tall.crop((0, 17, 40, 57))))


def test_images_of_any_size_reach_the_network(weights):
    extractor = CocoInception(torch.device("cpu"), weights)
    image = picture(4, 80, 60)
    pixels = torch.tensor(np.array(image)).permute(2, 0, 1)[None]
    torch.testing.assert_close(extractor(pixels)["features"], extractor(coco_resize(image)[None])["features"])


def test_captions_come_from_the_two_columns(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text('image_id,text\n179765,"A black motorcycle, parked."\n190236,An office cubicle\n')
    prompts = read_prompts(path)
    assert prompts.keys == ("179765", "190236")
    assert prompts.texts == ("A black motorcycle, parked.", "An office cubicle")
    assert prompts.first(1).keys == ("179765",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,text\n1,a\n", "lacks the column 'image_id'"),
        ("image_id,text\n", "holds no caption"),
        ("image_id,text\n1,a\n1,b\n", "names an image_id twice"),
        ("image_id,text\n1, \n", "the caption of '1' is empty"),
    ],
)
def test_unusable_captions_are_answered(tmp_path, text, message):
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / "captions.csv")


def test_the_protocol_takes_these_features_and_a_statistics_file(weights):
    protocol = protocol_called("coco30k")
    assert isinstance(load_extractor(protocol.features, torch.device("cpu"), weights), CocoInception)
    assert (protocol.metrics, protocol.num_images, protocol.statistics) == (("fid",), 30000, "file")
