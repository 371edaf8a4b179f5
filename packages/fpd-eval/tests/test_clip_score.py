"""CLIP scores against the rules written out with other primitives, and against torchmetrics."""

import gzip
import json
import math
from importlib.resources import files

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchmetrics.functional.multimodal import clip_score
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from fpd_core.checkpoints import CheckpointError
from fpd_eval.cli import main
from fpd_eval.extractors import open_clip_towers
from fpd_eval.extractors.open_clip_towers import clip_score_model, plain_tokens, prefixed_tokens
from fpd_eval.extractors.transformers_clip import TransformersClip
from fpd_eval.metrics.clip_score import clip_score_vit_g, clip_score_vit_l, cosines
from fpd_eval.systems.system import GeneratingSystem

CPU = torch.device("cpu")
TEXTS = ["a photo of a red bench", "two dogs", "many words " * 60]


def random_image(seed, width, height):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A file of random weights of a small open_clip network, which stands in for ViT-g-14."""
    shape = {"embed_dim": 8, "vision_cfg": {"image_size": 224, "layers": 1, "width": 16, "head_width": 8}}
    shape["vision_cfg"]["patch_size"] = 56
    shape["text_cfg"] = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "tiny-clip-score.json").write_text(json.dumps(shape))
    open_clip.add_model_config(tmp_path / "tiny-clip-score.json")
    monkeypatch.setattr(open_clip_towers, "CLIP_SCORE_ARCHITECTURE", "tiny-clip-score")
    torch.manual_seed(0)
    network = open_clip.create_model("tiny-clip-score", load_weights=False).eval()
    torch.save(network.state_dict(), tmp_path / "tiny.bin")
    return network, tmp_path / "tiny.bin"


def test_cosines_of_a_worked_example():
    images, texts = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [-2.0, 0.0]])
    np.testing.assert_allclose(cosines(images, texts), [24 / 25, -1.0], rtol=1e-15)
    assert clip_score_vit_g(images, texts) == pytest.approx(-0.02)
    assert clip_score_vit_l(images, texts) == 0  # clipped after the mean
    assert clip_score_vit_l(images[:1], texts[:1]) == pytest.approx(96)


def test_only_the_first_30000_pairs_count():
    texts = torch.tensor([1.0, 0.0]).repeat(30_001, 1)
    images = texts.clone()
    images[-1] = torch.tensor([-1.0, 0.0])
    assert clip_score_vit_g(images, texts) == 1


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        (torch.ones(3, 2), torch.ones(2, 2), "do not pair up"),
        (torch.zeros(1, 2), torch.ones(1, 2), "all zeros"),
        (torch.full((1, 2), math.nan), torch.ones(1, 2), "image features contain NaN"),
    ],
)
def test_unusable_features_are_answered(images, texts, message):
    with pytest.raises(ValueError, match=message):
        cosines(images, texts)


def test_the_prefix_has_the_ids_of_its_words_in_the_vocabulary():
    """Ids from the vocabulary file itself: 256 bytes, 256 of them ending a word, then the merges in order."""
    packed = files("open_clip") / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    whole = {"".join(merge.split()): 512 + rank for rank, merge in enumerate(merges)}
    letter = whole.get("a</w>", 256 + ord("a") - ord("!"))
    assert (letter, whole["photo</w>"], whole["depicts</w>"]) == open_clip_towers.PREFIX_TOKENS


def test_prefix_stands_after_the_start_token():
    plain, prefixed = plain_tokens(TEXTS).tolist(), prefixed_tokens(TEXTS).tolist()
    for before, after in zip(plain, prefixed, strict=True):
        assert after[:4] == [49406, 320, 1125, 29340]
        assert after[4:76] == before[1:73]
        assert len(after) == 77
    assert prefixed[0][76] == prefixed[1][76] == 0
    assert prefixed[2][76] == 49407


def test_vit_g_features_are_those_of_the_published_rule(tmp_path, tiny):
    """Crop, Lanczos to 256, bicubic to 224, CLIP mean and std: written out with Pillow and numpy."""
    network, path = tiny
    images = [random_image(0, 301, 200), random_image(1, 64, 90)]
    model = clip_score_model(path, CPU)
    prepared = []
    for image, box in zip(images, [(50, 0, 250, 200), (0, 13, 64, 77)], strict=True):
        small = image.crop(box).resize((256, 256), Image.Resampling.LANCZOS)
        pixels = np.asarray(small.resize((224, 224), Image.Resampling.BICUBIC)) / 255
        mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        prepared.append(torch.tensor((pixels - mean) / std).permute(2, 0, 1).float())
    expected = network.encode_image(torch.stack(prepared))
    torch.testing.assert_close(model.images(images), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.texts(TEXTS), network.encode_text(prefixed_tokens(TEXTS)))
    assert not torch.allclose(model.texts(TEXTS), network.encode_text(plain_tokens(TEXTS)))


def test_a_file_of_another_network_is_answered(tmp_path, tiny):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.bin")
    (tmp_path / "damaged.bin").write_bytes(b"not weights")
    for name in ("other.bin", "damaged.bin"):
        with pytest.raises(CheckpointError, match=f"{name} does not hold weights of open_clip tiny"):
            clip_score_model(tmp_path / name, CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random CLIP of transformers as `save_pretrained` writes it, with a vocabulary of letters."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 52, "eos_token_id": 53}
    torch.manual_seed(1)
    config = CLIPConfig(
        text_config=sizes | ends | {"vocab_size": 54, "max_position_embeddings": 77},
        vision_config=sizes | {"image_size": 224, "patch_size": 56},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)
    return folder


class BareTensors(torch.nn.Module):
    """transformers 5 answers with an output object where torchmetrics 1.9 expects the tensor in it."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, *inputs):
        return self.model.get_image_features(*inputs).pooler_output

    def get_text_features(self, *inputs):
        return self.model.get_text_features(*inputs).pooler_output


@pytest.mark.parametrize("sign", [1, -1])
def test_vit_l_score_is_that_of_torchmetrics(folder, sign):
    texts = ["a red bench", "two dogs"]
    images = [random_image(2, 224, 300), random_image(3, 260, 240)]
    model = TransformersClip(folder, CPU)
    ours = clip_score_vit_l(sign * model.images(images), model.texts(texts))
    network = CLIPModel.from_pretrained(folder).eval()
    network.visual_projection.weight.data *= sign
    pixels = [torch.tensor(np.asarray(image)).permute(2, 0, 1) for image in images]
    processor = CLIPProcessor.from_pretrained(folder)
    with torch.no_grad():
        theirs = float(clip_score(pixels, texts, lambda: (BareTensors(network), processor)))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_long_captions_are_cut_as_torchmetrics_cuts_them(folder):
    model = TransformersClip(folder, CPU)
    network, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    tokens = processor(text=["many words " * 40], return_tensors="pt")
    assert tokens["input_ids"].shape[1] > 77
    expected = network.get_text_features(tokens["input_ids"][:, :77], tokens["attention_mask"][:, :77]).pooler_output
    torch.testing.assert_close(model.texts(["many words " * 40]), expected)


def test_a_folder_without_a_model_is_answered(tmp_path):
    with pytest.raises(CheckpointError, match="holds no CLIP model of transformers"):
        TransformersClip(tmp_path, CPU)


@pytest.fixture
def scene(tmp_path):
    """Three captions and their images, called by COCO ids."""
    images = tmp_path / "images"
    images.mkdir()
    keys = ["190236", "42", "179765"]
    for seed, key in enumerate(keys):
        random_image(seed, 60, 50).save(images / f"{key.zfill(12)}.png")
    rows = [f'{key},"a caption, number {seed}"' for seed, key in enumerate(keys)]
    (tmp_path / "captions.csv").write_text("\n".join(["image_id,text", *rows]) + "\n")
    return images, tmp_path / "captions.csv"


def run(arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_the_command_pairs_images_and_captions_by_id(tiny, scene, capsys):
    _, weights = tiny
    images, captions = scene
    arguments = ["clip-score", "--images", images, "--prompts", captions, "--weights", weights, "--json"]
    assert run([*arguments, "--batch-size", 2]) == 0
    found = json.loads(capsys.readouterr().out)
    model = clip_score_model(weights, CPU)
    shown = model.images([random_image(seed, 60, 50) for seed in range(3)])
    said = model.texts([f"a caption, number {seed}" for seed in range(3)])
    assert found["values"] == {"clip_score_vit_g": pytest.approx(clip_score_vit_g(shown, said), abs=1e-6)}
    assert (found["num_images"], found["model"]) == (3, model.fingerprint)
    assert run([*arguments, "--num-images", 1]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["values"]["clip_score_vit_g"] == pytest.approx(clip_score_vit_g(shown[:1], said[:1]), abs=1e-6)


def test_the_command_scores_with_the_other_model(folder, scene, capsys):
    images, captions = scene
    arguments = ["--images", images, "--prompts", captions, "--weights", folder, "--model", "vit-l-14"]
    assert run(["clip-score", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "clip_score_vit_l" in shown
    assert "torchmetrics" in shown


def test_the_command_makes_missing_images_with_a_system(tiny, tmp_path, capsys, monkeypatch):
    class Painter(GeneratingSystem):
        name, role, steps, network_evaluations, settings, fingerprint = "painter", "student", 1, 1, {}, "p"

        def images(self, condition, *, seed):
            return torch.full((len(condition), 3, 40, 40), 0.5)

    monkeypatch.setattr("fpd_eval.systems.student.StudentKind.load", lambda self, device: Painter())
    (tmp_path / "a.json").write_text('{"kind": "student", "name": "painter", "folder": "x"}')
    (tmp_path / "captions.txt").write_text("a\nb\nc\n")
    arguments = ["--images", tmp_path / "made", "--prompts", tmp_path / "captions.txt", "--weights", tiny[1]]
    assert run(["clip-score", *arguments, "--system", tmp_path / "a.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 3
    assert sorted(path.name for path in (tmp_path / "made").glob("*.png")) == ["0.png", "1.png", "2.png"]


def test_mistakes_end_in_one_sentence(scene, capsys, tmp_path):
    images, captions = scene
    assert run(["clip-score", "--images", images, "--prompts", captions, "--weights", tmp_path / "none.bin"]) == 2
    assert "none.bin does not exist; get open_clip ViT-g-14" in " ".join(capsys.readouterr().err.split())
