"""The public weight files: what each is, where it is published, where it belongs."""

from dataclasses import dataclass
from pathlib import Path

from fpd_core.plugins import Registry

FOLDER = Path("weights")


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One published file.

    Attributes:
        family: key of `WEIGHT_FILES` and `FURTHER_FILES`, the argument of `fpd-train weights pull`.
        role: what it is in the family, unique there.
        repo_id: repository on huggingface.co.
        filename: path inside that repository.
        local: where fpd looks unless a config names another path; relative to the working directory.
        size_bytes: published size; None where it is not known for certain.
        num_parameters: numbers in the network fpd takes from the file, which may hold more (optimizer, other towers).
        licence: of the weights.
        license_id: its name in the hub's list; `other` where it has none there.
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
    license_id: str = "other"
    note: str
    address: str = ""

    @property
    def url(self) -> str:
        """The page that shows the file; open it to accept a licence."""
        return self.address or f"https://huggingface.co/{self.repo_id}/blob/main/{self.filename}"


_MASKGIT_REPO = "llvictorll/Maskgit-pytorch"
_HALTON_REPO = "llvictorll/Halton-MaskGIT"
_HALTON_LICENCE = "MIT"
_MEISSONIC_REPO = "MeissonFlow/Meissonic"
_MEISSONIC_LICENCE = "see the model card of MeissonFlow/Meissonic"

# What a family's own configuration opens.
_OWN: dict[str, tuple[WeightFile, ...] | str] = {
    "maskgit": (
        WeightFile(
            family="maskgit",
            role="transformer",
            repo_id=_MASKGIT_REPO,
            filename="pretrained_maskgit/MaskGIT/MaskGIT_ImageNet_256.pth",
            local=FOLDER / "maskgit/MaskGIT_ImageNet_256.pth",
            num_parameters=174_160_874,
            licence="MIT (code of valeoai/Halton-MaskGIT, branch v1.0)",
            license_id="mit",
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
            license_id="mit",
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
            num_parameters=123_650_304,
            licence="MIT (code of openai/CLIP)",
            license_id="mit",
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
    "halton": (
        WeightFile(
            family="halton",
            role="transformer",
            repo_id=_HALTON_REPO,
            filename="ImageNet_256_base.pth",
            local=FOLDER / "halton/ImageNet_256_base.pth",
            num_parameters=142_224_641,
            licence=_HALTON_LICENCE,
            license_id="mit",
            note="Halton-MaskGIT v2 base, ImageNet 256; weights under model_state_dict, optimizer state beside them",
        ),
        WeightFile(
            family="halton",
            role="tokenizer",
            repo_id="FoundationVision/LlamaGen",
            filename="vq_ds16_c2i.pt",
            local=FOLDER / "halton/vq_ds16_c2i.pt",
            num_parameters=71_883_403,
            licence="MIT",
            license_id="mit",
            note="LlamaGen VQ-16, 16384 codes, for all sizes; not vq_ds16_t2i.pt, which has the same keys",
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
            license_id="apache-2.0",
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
            license_id="apache-2.0",
            note="GenEval's detector for fpd-eval geneval, in mmdetection 3.x names",
            address="https://download.openmmlab.com/mmdetection/v3.0/mask2former/"
            "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco/"
            "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth",
        ),
    ),
}
WEIGHT_FILES = Registry("fpd.weights", "weight family", _OWN)


def _halton(size: str, pixels: int, num_parameters: int, size_bytes: int | None = None) -> WeightFile:
    return WeightFile(
        family="halton",
        role=f"{size}_{pixels}",
        repo_id=_HALTON_REPO,
        filename=f"ImageNet_{pixels}_{size}.pth",
        local=FOLDER / f"halton/ImageNet_{pixels}_{size}.pth",
        size_bytes=size_bytes,
        num_parameters=num_parameters,
        licence=_HALTON_LICENCE,
        license_id="mit",
        note=f"Halton-MaskGIT v2 {size}, ImageNet {pixels}",
    )


# Other sizes and variants, pulled by their roles only.
FURTHER_FILES: dict[str, tuple[WeightFile, ...]] = {
    "halton": (
        _halton("tiny", 256, 23_031_425),
        _halton("small", 256, 69_344_769, 832_274_338),
        _halton("small", 384, 69_508_609),
        _halton("base", 384, 142_470_401),
        _halton("large", 384, 479_984_641),
    ),
    "maskgen": (
        WeightFile(
            family="maskgen",
            role="transformer_xl",
            repo_id="turkeyju/generator_maskgen_vq_xl",
            filename="model.safetensors",
            local=FOLDER / "maskgen/maskgen_vq_xl.safetensors",
            num_parameters=1_176_611_840,
            licence="weights labelled for research use (code Apache-2.0)",
            note="MaskGen-XL VQ",
        ),
    ),
    "meissonic": (
        WeightFile(
            family="meissonic",
            role="text_encoder_laion",
            repo_id="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
            filename="model.safetensors",
            local=FOLDER / "meissonic/clip_vit_h14_laion2b.safetensors",
            num_parameters=354_032_640,
            licence="MIT",
            license_id="mit",
            note="the tower that the public inference script takes; only its text part is used",
        ),
    ),
}
