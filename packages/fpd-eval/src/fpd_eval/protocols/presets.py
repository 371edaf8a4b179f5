"""The presets. A new one is a line in `PROTOCOLS`; docs/evaluation.md tells what each follows and its traps."""

from pathlib import Path

from fpd_core.plugins import Registry
from fpd_core.sections import one_of
from fpd_core.teachers.fashion import CLASSES
from fpd_eval.protocols.protocol import MetricName, MetricProtocol

FASHION = Path("assets/fashion/data")
HPS: dict[str, MetricName] = {"v2.0": "hps_v2.0", "v2.1": "hps_v2.1"}
BATTERY: tuple[MetricName, ...] = ("fd", "sw", "mind", "cmmd", "kid")
_OWN: dict[str, MetricProtocol | str] = {
    protocol.name: protocol
    for protocol in (
        MetricProtocol(
            name="dimo",
            source="yuanzhi-zhu/DiMO evaluation/{fid,prdc}.py; the protocol of FPD Table 2",
            metrics=("fid", "is", "prc"),
            features="inception_tensorflow",
            scores="inception_fidelity",
            num_reference=10000,
            rounding="half_up",
            statistics="file",
            density_coverage_k=3,
        ),
        MetricProtocol(
            name="adm",
            source="openai/guided-diffusion evaluations/evaluator.py, distances in float64 instead of float16",
            metrics=("fid", "sfid", "is", "prc"),
            features="inception_fidelity",
            scores="inception_fidelity",
            num_reference=10000,
            rounding="truncate",
            statistics="file",
            inclusive=True,
            inception_split_size=5000,
            inception_shuffle=False,
        ),
        MetricProtocol(
            name="clean",
            source="clean-fid mode `clean`; IS of torch-fidelity, precision to coverage of prdc with its k of 5",
            metrics=("fid", "kid", "is", "prc"),
            features="inception_clean",
            scores="inception_fidelity",
            precision_recall_k=5,
            density_coverage_k=5,
        ),
        MetricProtocol(
            name="coco30k",
            source="boomb0om/text2image-benchmark with MS-COCO_val2014_fid_stats.npz; Di[M]O table 8",
            metrics=("fid",),
            features="inception_coco",
            num_images=30000,
            statistics="file",
        ),
        MetricProtocol(
            name="fdd",
            source="layer6ai-labs/dgm-eval, encoder dinov2 vitl14",
            metrics=("fdd",),
            features="dinov2_vitl14",
        ),
        MetricProtocol(
            name="small",
            source="the bundled world; the numbers of `fpd-eval compare`",
            metrics=("fd_classifier", "is", "prc", "kid"),
            compared=("fd_classifier", "fd_efficientnet", "is", "prc", "accuracy", "pixels"),
            features="classifier",
            scores="classifier",
            num_images=10000,
            batch_size=250,
            density_coverage_k=5,
            reference=FASHION / "t10k-images-idx3-ubyte.gz",
            class_names=CLASSES,
            reference_labels=FASHION / "t10k-labels-idx1-ubyte.gz",
            timing_batch_size=25,
        ),
        MetricProtocol(
            name="battery",
            source="several encoders in units of real images, as vita-epfl/RDM's SWr and MMDr; the bundled world",
            metrics=BATTERY,
            features="classifier",
            battery=("classifier", "efficientnet_lite0", "pixels_8x8"),
            num_images=5000,
            batch_size=250,
            kid_subsets=20,
            kid_subset_size=500,
            reference=FASHION / "t10k-images-idx3-ubyte.gz",
            class_names=CLASSES,
            reference_labels=FASHION / "t10k-labels-idx1-ubyte.gz",
            timing_batch_size=25,
        ),
        MetricProtocol(
            name="battery-photos",
            source="the same in encoders of photographs",
            metrics=BATTERY,
            features="inception_clean",
            battery=(
                *("inception_clean", "dinov2_vitl14", "dinov3_vitb16", "convnextv2_base"),
                *("mae_vitl16", "siglip2_so400m", "clip_vitl14_336"),
            ),
            num_images=5000,
            kid_subsets=20,
            kid_subset_size=500,
        ),
        MetricProtocol(
            name="clip-score-vit-g-14",
            source="Di[M]O, table 8: plain cosine",
            metrics=("clip_score_vit_g",),
            features="clip_vitg14_laion2b",
        ),
        MetricProtocol(
            name="clip-score-vit-l-14",
            source="torchmetrics CLIPScore: 100 x cosine",
            metrics=("clip_score_vit_l",),
            features="clip_vitl14_transformers",
        ),
        MetricProtocol(
            name="pickscore",
            source="yuvalkirstain/PickScore: logit scale x cosine",
            metrics=("pick_score",),
            features="pickscore",
        ),
        MetricProtocol(name="hpsv3", source="MizzenAI/HPSv3: mean μ", metrics=("hps_v3",), features="hpsv3"),
        *(
            MetricProtocol(
                name=f"hps-{version}",
                source=f"HPSv2 benchmark, weights {version}: 100 x cosine",
                metrics=(metric,),
                features=f"hps_{version}",
            )
            for version, metric in HPS.items()
        ),
    )
}
PROTOCOLS = Registry("fpd.protocols", "protocol", _OWN, one_of(MetricProtocol))


def protocol_called(name: str) -> MetricProtocol:
    """The preset called `name`. Raises ConfigError: there is none."""
    return PROTOCOLS.find(name)
