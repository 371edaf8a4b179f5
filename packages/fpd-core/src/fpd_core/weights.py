"""The public weight files: what each is, where it is published, where it belongs, whether it is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fpd_core.checkpoints import CheckpointError
from fpd_core.config import nearest

FOLDER = Path("weights")


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One published file.

    Attributes:
        family: key of `WEIGHT_FILES`, the argument of `fpd-train weights pull`.
        role: what it is in the family, unique there.
        repo_id: repository on huggingface.co.
        filename: path inside that repository.
        local: where fpd looks unless a config names another path; relative to the working directory.
        size_bytes: published size; None where it is not known for certain.
        num_parameters: numbers in the network fpd takes from the file, which may hold more (optimizer, other towers).
        licence: of the weights.
        note: what a user should know before using it.
        address: of a file that lies elsewhere than on the hub; `repo_id` is then the project.
    """

    family: str
    role: str
    repo_id: str
    filename: str
    local: Path
    size_bytes: int | None = None
    num_parameters: int | None = None
    licence: str
    note: str
    address: str = ""

    @property
    def url(self) -> str:
        """The page that shows the file; open it to accept a licence."""
        return self.address or f"https://huggingface.co/{self.repo_id}/blob/main/{self.filename}"


_MASKGIT_REPO = "llvictorll/Maskgit-pytorch"
_MEISSONIC_REPO = "MeissonFlow/Meissonic"
_MEISSONIC_LICENCE = "see the model card of MeissonFlow/Meissonic"

WEIGHT_FILES: dict[str, tuple[WeightFile, ...]] = {
    "maskgit": (
        WeightFile(
            family="maskgit",
            role="transformer",
            repo_id=_MASKGIT_REPO,
            filename="pretrained_maskgit/MaskGIT/MaskGIT_ImageNet_256.pth",
            local=FOLDER / "maskgit/MaskGIT_ImageNet_256.pth",
            num_parameters=174_160_874,
            licence="MIT (code of valeoai/Halton-MaskGIT, branch v1.0)",
            note="MaskGIT v1, ImageNet 256; weights under model_state_dict, optimizer state beside them",
        ),
        WeightFile(
            family="maskgit",
            role="tokenizer",
            repo_id=_MASKGIT_REPO,
            filename="pretrained_maskgit/VQGAN/last.ckpt",
            local=FOLDER / "maskgit/vqgan_f16_1024.ckpt",
            num_parameters=72_141_699,
            licence="MIT (code of CompVis/taming-transformers)",
            note="VQGAN f16, 1024 codes; Lightning pickle that also holds the training losses",
        ),
    ),
    "maskgen": (
        WeightFile(
            family="maskgen",
            role="transformer",
            repo_id="turkeyju/generator_maskgen_vq_l",
            filename="model.safetensors",
            local=FOLDER / "maskgen/maskgen_vq_l.safetensors",
            num_parameters=604_311_552,
            licence="weights labelled for research use (code Apache-2.0)",
            note="MaskGen-L VQ; also published as maskgen_vq_l.bin in fun-research/TA-TiTok",
        ),
        WeightFile(
            family="maskgen",
            role="tokenizer",
            repo_id="turkeyju/tokenizer_tatitok_bl128_vq",
            filename="model.safetensors",
            local=FOLDER / "maskgen/tatitok_bl128_vq.safetensors",
            num_parameters=391_046_292,
            licence="weights labelled for research use (code Apache-2.0)",
            note="TA-TiTok BL128 VQ; also published as tatitok_bl128_vq.bin in fun-research/TA-TiTok",
        ),
        WeightFile(
            family="maskgen",
            role="text_encoder",
            repo_id="timm/vit_large_patch14_clip_336.openai",
            filename="open_clip_model.safetensors",
            local=FOLDER / "maskgen/clip_vit_l14_336.safetensors",
            num_parameters=123_650_305,
            licence="MIT (code of openai/CLIP)",
            note="OpenAI CLIP ViT-L/14-336 in open_clip's naming; only its text tower is used",
        ),
    ),
    "meissonic": (
        WeightFile(
            family="meissonic",
            role="transformer",
            repo_id=_MEISSONIC_REPO,
            filename="transformer/diffusion_pytorch_model.safetensors",
            local=FOLDER / "meissonic/transformer/diffusion_pytorch_model.safetensors",
            num_parameters=1_006_946_304,
            licence=_MEISSONIC_LICENCE,
            note="Meissonic, 1024 px",
        ),
        WeightFile(
            family="meissonic",
            role="tokenizer",
            repo_id=_MEISSONIC_REPO,
            filename="vqvae/diffusion_pytorch_model.safetensors",
            local=FOLDER / "meissonic/vqvae/diffusion_pytorch_model.safetensors",
            licence=_MEISSONIC_LICENCE,
            note="VQ model with 8192 codes, diffusers format",
        ),
        WeightFile(
            family="meissonic",
            role="tokenizer_config",
            repo_id=_MEISSONIC_REPO,
            filename="vqvae/config.json",
            local=FOLDER / "meissonic/vqvae/config.json",
            licence=_MEISSONIC_LICENCE,
            note="sizes of the VQ model",
        ),
        WeightFile(
            family="meissonic",
            role="text_encoder",
            repo_id=_MEISSONIC_REPO,
            filename="text_encoder/model.safetensors",
            local=FOLDER / "meissonic/text_encoder/model.safetensors",
            licence=_MEISSONIC_LICENCE,
            note="OpenCLIP ViT-H/14 text tower, transformers format",
        ),
    ),
    "dinov3": (
        WeightFile(
            family="dinov3",
            role="backbone",
            repo_id="timm/vit_base_patch16_dinov3.lvd1689m",
            filename="model.safetensors",
            local=FOLDER / "dinov3/vit_base_patch16_dinov3.safetensors",
            num_parameters=85_641_216,
            licence="DINOv3 License; restricts redistribution, may have to be accepted on the page of the file",
            note="DINOv3 ViT-B/16; facebook/dinov3-vitb16-pretrain-lvd1689m (gated) fits as well",
        ),
    ),
    "deit": (
        WeightFile(
            family="deit",
            role="discriminator",
            repo_id="timm/deit_base_distilled_patch16_224.fb_in1k",
            filename="model.safetensors",
            local=FOLDER / "deit/deit_base_distilled_patch16_224.safetensors",
            num_parameters=87_338_192,
            licence="Apache-2.0",
            note="DeiT-base distilled, one of the two frozen networks of the discriminator (method.gan)",
        ),
    ),
    "mask2former": (
        WeightFile(
            family="mask2former",
            role="detector",
            repo_id="open-mmlab/mmdetection",
            filename="mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth",
            local=FOLDER / "mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth",
            num_parameters=68_739_547,
            licence="Apache-2.0",
            note="GenEval's detector for fpd-eval geneval, in mmdetection 3.x names",
            address="https://download.openmmlab.com/mmdetection/v3.0/mask2former/"
            "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco/"
            "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth",
        ),
    ),
}


def weight_file(family: str, role: str) -> WeightFile:
    """The published file of a family's part. Raises ConfigError: unknown family or role."""
    if family not in WEIGHT_FILES:
        raise nearest(family, list(WEIGHT_FILES), "weight family")
    roles = {file.role: file for file in WEIGHT_FILES[family]}
    if role not in roles:
        raise nearest(role, list(roles), f"file of {family}")
    return roles[role]


@dataclass(frozen=True)
class RequiredFile:
    """A published file at the path where a run will open it."""

    path: Path
    file: WeightFile

    @property
    def present(self) -> bool:
        return self.path.is_file()

    @property
    def size(self) -> int | None:
        """Bytes on disk; None if absent."""
        return self.path.stat().st_size if self.present else None


def missing(files: Sequence[RequiredFile]) -> list[RequiredFile]:
    """Those that are not there, in the order given."""
    return [file for file in files if not file.present]


def require(files: Sequence[RequiredFile]) -> None:
    """Check that every file is there, before any of them is opened.

    Raises:
        CheckpointError: names all absent files at once, where each is published, where to put it, and the command.
    """
    absent = missing(files)
    if not absent:
        return
    count = "1 weight file is missing" if len(absent) == 1 else f"{len(absent)} weight files are missing"
    lines = [
        f"  {one.path} ({one.file.family} {one.file.role}): "
        f"file {one.file.filename} of huggingface.co/{one.file.repo_id}"
        for one in absent
    ]
    pulls = " and ".join(
        f"`fpd-train weights pull {family}`" for family in dict.fromkeys(o.file.family for o in absent)
    )
    raise CheckpointError("\n".join([f"{count}:", *lines, f"Run {pulls}, or put the files at these paths."]))
