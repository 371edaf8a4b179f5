"""GenEval itself: the 553 prompts, Mask2Former for boxes, CLIP for colours."""

from fpd_eval.geneval.colors import ClipColors
from fpd_eval.geneval.detector import ColorClassifier, Detector
from fpd_eval.geneval.files import colors_file, detector_file
from fpd_eval.geneval.mask2former import Mask2FormerDetector
from fpd_eval.geneval.prompts import make_prompts
from fpd_eval.geneval.self_check import KnownObject, KnownPicture
from fpd_eval.geneval.suites import Opening, Suite


def _detector(opening: Opening) -> Detector:
    return Mask2FormerDetector.load(
        detector_file(opening.detector_weights),
        preprocessing=opening.preprocessing,
        device=opening.device,
        batch_size=opening.batch_size,
    )


def _colors(opening: Opening) -> ColorClassifier:
    return ClipColors.load(colors_file(opening.clip_weights), device=opening.device)


CAT_AND_CUP = KnownPicture("coco.jpg", (KnownObject("cat", (0, 0, 410, 300)), KnownObject("cup", (580, 12, 758, 232))))
GENEVAL = Suite("geneval", lambda: make_prompts(), _detector, _colors, CAT_AND_CUP)
