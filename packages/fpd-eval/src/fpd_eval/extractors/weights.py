"""Weight files that metrics need: what they are, where they are published, where they go.

A metric that needs another file adds one line to `EVAL_WEIGHTS`; `fpd-eval doctor` lists them all.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpd_core.config import CheckpointError
from fpd_core.places import bundled
from fpd_core.plugins import Registry
from fpd_core.sections import one_of
from fpd_core.untrusted import require_files_only

WEIGHTS_FOLDER = Path("weights")
# What libraries raise for damaged weights and settings that make no sense: tokenizers raises this very class.
DAMAGE = Exception

MASK2FORMER = "https://download.openmmlab.com/mmdetection"
MMDET_3 = "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth"
MMDET_2 = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"


@dataclass(frozen=True)
class EvalWeight:
    """A file or folder a user fetches once.

    Attributes:
        metrics: what cannot run without it, as the commands call it.
        what: the network, in a few words.
        published: hub repository or URL, with the file's name.
        local: where the commands look, relative to the working folder.
        note: what a user must know before fetching it; may be empty.
    """

    metrics: tuple[str, ...]
    what: str
    published: str
    local: Path
    note: str = ""

    @property
    def is_present(self) -> bool:
        return bundled(self.local).exists()


_OWN: dict[str, EvalWeight | str] = {
    "inception_fidelity": EvalWeight(
        ("adm: fid, sfid, prc, kid", "adm, dimo, clean: is"),
        "Inception 2015, torch-fidelity's conversion",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        WEIGHTS_FOLDER / "inception" / "weights-inception-2015-12-05-6726825d.pth",
    ),
    "inception_torchscript": EvalWeight(
        ("dimo, clean: fid, prc, kid",),
        "Inception 2015, NVIDIA's TorchScript, which clean-fid runs",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
        WEIGHTS_FOLDER / "inception" / "inception-2015-12-05.pt",
        "A program, not only numbers: TorchScript runs what it holds.",
    ),
    "fashion_classifier": EvalWeight(
        ("compare", "small: all"),
        "the bundled world's classifier",
        "this repository",
        Path("assets/fashion/classifier"),
    ),
    "scene_judge": EvalWeight(
        ("geneval --suite scenes",),
        "the judge of the bundled text-to-image world",
        "this repository",
        Path("assets/scenes/judge"),
    ),
    "dinov2_vitl14": EvalWeight(
        ("fdd",),
        "DINOv2 ViT-L/14 without registers",
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        WEIGHTS_FOLDER / "dinov2" / "dinov2_vitl14_pretrain.pth",
    ),
    "dinov3_vitb16": EvalWeight(
        ("battery-photos",),
        "DINOv3 ViT-B/16, timm's or transformers' file",
        "https://huggingface.co/timm/vit_base_patch16_dinov3.lvd1689m/resolve/main/model.safetensors",
        WEIGHTS_FOLDER / "dinov3" / "vit_base_patch16_dinov3.safetensors",
        "Also `fpd-train weights pull dinov3`; a student whose loss used DINOv3 has it for no judge.",
    ),
    "convnextv2_base": EvalWeight(
        ("battery-photos",),
        "ConvNeXt V2 base, FCMAE, fine-tuned on ImageNet-22k and -1k",
        "https://huggingface.co/timm/convnextv2_base.fcmae_ft_in22k_in1k/resolve/main/model.safetensors",
        WEIGHTS_FOLDER / "encoders" / "convnextv2_base.fcmae_ft_in22k_in1k.safetensors",
    ),
    "mae_vitl16": EvalWeight(
        ("battery-photos",),
        "MAE ViT-L/16, the encoder",
        "https://huggingface.co/timm/vit_large_patch16_224.mae/resolve/main/model.safetensors",
        WEIGHTS_FOLDER / "encoders" / "vit_large_patch16_224.mae.safetensors",
    ),
    "siglip2_so400m": EvalWeight(
        ("battery-photos",),
        "SigLIP 2 So400m/16 at 256 pixels, image tower",
        "https://huggingface.co/timm/vit_so400m_patch16_siglip_256.v2_webli/resolve/main/model.safetensors",
        WEIGHTS_FOLDER / "encoders" / "vit_so400m_patch16_siglip_256.v2_webli.safetensors",
    ),
    "clip_vitl14_336": EvalWeight(
        ("battery-photos", "cmmd as published"),
        "OpenAI's CLIP ViT-L/14 at 336 pixels for open_clip",
        "https://huggingface.co/timm/vit_large_patch14_clip_336.openai/resolve/main/open_clip_model.safetensors",
        WEIGHTS_FOLDER / "clip" / "vit_large_patch14_clip_336.openai.safetensors",
    ),
    "mask2former_mmdet": EvalWeight(
        ("geneval",),
        "Mask2Former Swin-S of OpenMMLab, GenEval's own detector, in mmdetection 3.x names",
        f"{MASK2FORMER}/v3.0/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco/{MMDET_3}",
        WEIGHTS_FOLDER / "mask2former" / MMDET_3,
        "Also `fpd-train weights pull mask2former`.",
    ),
    "mask2former_mmdet2": EvalWeight(
        ("geneval --detector-weights",),
        "the same training run in mmdetection 2.x names; either file does",
        f"{MASK2FORMER}/v2.0/mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco/{MMDET_2}",
        WEIGHTS_FOLDER / "mask2former" / MMDET_2,
    ),
    "mask2former": EvalWeight(
        ("geneval --detector-weights",),
        "Mask2Former Swin-S of Facebook: config.json and model.safetensors",
        "https://huggingface.co/facebook/mask2former-swin-small-coco-instance",
        WEIGHTS_FOLDER / "mask2former-swin-small-coco-instance",
        "Another detector than GenEval's: scores about 0.025 lower were reported.",
    ),
    "clip_vitl14_openai": EvalWeight(
        ("geneval",),
        "OpenAI's CLIP ViT-L/14 for open_clip",
        "https://huggingface.co/timm/vit_large_patch14_clip_224.openai/resolve/main/open_clip_model.safetensors",
        WEIGHTS_FOLDER / "clip" / "vit_large_patch14_clip_224.openai.safetensors",
    ),
    "clip_vitg14_laion2b": EvalWeight(
        ("clip-score --model vit-g-14",),
        "open_clip ViT-g-14, laion2b_s12b_b42k",
        "https://huggingface.co/laion/CLIP-ViT-g-14-laion2B-s12B-b42K/resolve/main/open_clip_pytorch_model.bin",
        WEIGHTS_FOLDER / "clip" / "vit_g_14_laion2b_s12b_b42k.bin",
    ),
    "clip_vitl14_transformers": EvalWeight(
        ("clip-score --model vit-l-14",),
        "CLIP ViT-L/14 for transformers: a folder with config.json, weights, tokenizer and image processor",
        "https://huggingface.co/openai/clip-vit-large-patch14",
        WEIGHTS_FOLDER / "clip" / "clip-vit-large-patch14",
    ),
    "pickscore": EvalWeight(
        ("preference --model pickscore",),
        "PickScore v1 for transformers: a folder with config.json, weights, tokenizer and image processor",
        "https://huggingface.co/yuvalkirstain/PickScore_v1",
        WEIGHTS_FOLDER / "pickscore",
        "Tokenizer and image processor are those of laion/CLIP-ViT-H-14-laion2B-s32B-b79K.",
    ),
    "hpsv3": EvalWeight(
        ("preference --model hpsv3",),
        "HPSv3: a folder with HPSv3.safetensors, instruction.txt, and config, tokenizer, processor of Qwen2-VL-7B",
        "https://huggingface.co/MizzenAI/HPSv3",
        WEIGHTS_FOLDER / "hpsv3",
        "The other files are those of Qwen/Qwen2-VL-7B-Instruct; instruction.txt is the question of the program.",
    ),
    "vqa": EvalWeight(
        ("geneval2",),
        "a network that answers about pictures: a folder with config, weights, processor and chat template",
        "https://huggingface.co/Qwen/Qwen3-VL-8B-Instruct",
        WEIGHTS_FOLDER / "vqa" / "Qwen3-VL-8B-Instruct",
        "GenEval 2's judge. The prompts are geneval2_data.jsonl of facebookresearch/GenEval2 (CC BY-NC 4.0).",
    ),
    "hps_v2.0": EvalWeight(
        ("hps --version v2.0",),
        "human preference score v2.0",
        "https://huggingface.co/xswu/HPSv2/resolve/main/HPS_v2_compressed.pt",
        WEIGHTS_FOLDER / "hps" / "HPS_v2_compressed.pt",
        "Another scale than v2.1. The prompts are the folder `benchmark` of the data set zhwang/HPDv2.",
    ),
    "hps_v2.1": EvalWeight(
        ("hps --version v2.1",),
        "human preference score v2.1",
        "https://huggingface.co/xswu/HPSv2/resolve/main/HPS_v2.1_compressed.pt",
        WEIGHTS_FOLDER / "hps" / "HPS_v2.1_compressed.pt",
        "Another scale than v2.0. The prompts are the folder `benchmark` of the data set zhwang/HPDv2.",
    ),
}
EVAL_WEIGHTS = Registry("fpd.eval_weights", "weight", _OWN, one_of(EvalWeight))


def locate(name: str, override: Path | None = None) -> Path:
    """The weight file or folder called `name`; `override` is looked at instead of its usual place.

    Raises:
        ConfigError: no such entry in `EVAL_WEIGHTS`.
        CheckpointError: nothing is there; the message says where it is published.
    """
    weight = EVAL_WEIGHTS.find(name)
    path = override or bundled(weight.local)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; get {weight.what} from {weight.published} and put it there")
    require_files_only(path, error=CheckpointError)
    return path


def open_pretrained(network: Any, folder: Path, what: str) -> Any:
    """A network of transformers that finds every weight in `folder`.

    Raises:
        CheckpointError: it does not, or the folder is damaged or of something else.
    """
    from fpd_core.checkpoints import unfit

    try:
        model, report = network.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except DAMAGE as error:
        raise unfit(folder, f"holds no {what}", error) from None
    # The library fills what is missing with random numbers; buffers it knows how to compute.
    absent = sorted(dict(model.named_parameters()).keys() & set(report["missing_keys"]))
    if absent:
        raise CheckpointError(f"{folder} does not fit {what}: {len(absent)} weights missing ({absent[0]}, ...)")
    return model
