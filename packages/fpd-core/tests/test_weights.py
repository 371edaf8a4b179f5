"""The registry of published files: consistent, and one error that lists all that is missing."""

import pytest

from fpd_core.checkpoints import CheckpointError
from fpd_core.config import ConfigError
from fpd_core.weight_files import FURTHER_FILES
from fpd_core.weights import WEIGHT_FILES, RequiredFile, missing, require, weight_file

ALL = [file for files in WEIGHT_FILES.values() for file in files]
FURTHER = [file for files in FURTHER_FILES.values() for file in files]


def test_no_two_files_share_a_place_or_a_role():
    every = [*ALL, *FURTHER]
    assert len({file.local for file in every}) == len(every)
    assert len({(file.family, file.role) for file in every}) == len(every)
    assert all(
        file.family == family
        for registry in (WEIGHT_FILES, FURTHER_FILES)
        for family, files in registry.items()
        for file in files
    )
    assert all(not file.local.is_absolute() and file.local.parts[:2] == ("weights", file.family) for file in every)


@pytest.mark.parametrize(
    ("family", "role", "published"),
    [
        ("maskgit", "transformer", "llvictorll/Maskgit-pytorch/pretrained_maskgit/MaskGIT/MaskGIT_ImageNet_256.pth"),
        ("maskgit", "tokenizer", "llvictorll/Maskgit-pytorch/pretrained_maskgit/VQGAN/last.ckpt"),
        ("maskgen", "transformer", "turkeyju/generator_maskgen_vq_l/model.safetensors"),
        ("maskgen", "tokenizer", "turkeyju/tokenizer_tatitok_bl128_vq/model.safetensors"),
        ("maskgen", "transformer_xl", "turkeyju/generator_maskgen_vq_xl/model.safetensors"),
        ("halton", "transformer", "llvictorll/Halton-MaskGIT/ImageNet_256_base.pth"),
        ("halton", "large_384", "llvictorll/Halton-MaskGIT/ImageNet_384_large.pth"),
        ("halton", "tokenizer", "FoundationVision/LlamaGen/vq_ds16_c2i.pt"),
        ("meissonic", "text_encoder_laion", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K/model.safetensors"),
        ("dinov3", "backbone", "timm/vit_base_patch16_dinov3.lvd1689m/model.safetensors"),
    ],
)
def test_where_the_authors_publish_them(family, role, published):
    file = weight_file(family, role)
    assert f"{file.repo_id}/{file.filename}" == published
    assert file.url == f"https://huggingface.co/{file.repo_id}/blob/main/{file.filename}"


def test_unknown_names_are_answered():
    with pytest.raises(ConfigError, match="did you mean 'maskgen'"):
        weight_file("maskgem", "transformer")
    with pytest.raises(ConfigError, match="unknown file of maskgit 'backbone'"):
        weight_file("maskgit", "backbone")


def test_all_missing_files_are_named_at_once(tmp_path):
    there, gone = RequiredFile(tmp_path / "a", ALL[0]), [RequiredFile(tmp_path / f.local, f) for f in ALL[1:4]]
    there.path.write_bytes(b"12345")
    assert there.present
    assert there.size == 5
    assert gone[0].size is None
    assert missing([gone[0], there, gone[1]]) == [gone[0], gone[1]]
    require([there])
    with pytest.raises(CheckpointError) as error:
        require([there, *gone])
    text = str(error.value)
    assert text.startswith("3 weight files are missing")
    for one in gone:
        assert str(one.path) in text
        assert one.file.filename in text
        assert one.file.repo_id in text
    assert str(there.path) + " " not in text
    assert "`fpd-train weights pull maskgit` and `fpd-train weights pull maskgen`" in text


def test_files_of_other_sizes_are_pulled_by_role(tmp_path):
    roles = [RequiredFile(tmp_path / role, weight_file("halton", role)) for role in ("small_384", "tokenizer")]
    with pytest.raises(CheckpointError, match="Run `fpd-train weights pull halton small_384 tokenizer`, or put"):
        require([*roles])
    with pytest.raises(CheckpointError, match="Run `fpd-train weights pull halton`, or put"):
        require(roles[1:])


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="1 weight file is missing"):
        require([RequiredFile(tmp_path, ALL[0])])
