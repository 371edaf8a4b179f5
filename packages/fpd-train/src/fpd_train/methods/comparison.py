"""What a run compares its drafts by, made once: the distance, with what it remembers, and the teacher's samples."""

import torch

from fpd_core.distances import Scene
from fpd_core.lift import Lift
from fpd_core.objective import Comparison, ObjectiveConfig, comparison
from fpd_core.teachers import AnyTeacherConfig
from fpd_core.teachers.teacher import Teacher
from fpd_train.methods.interface import Parts
from fpd_train.methods.teacher_samples import reference_samples


@torch.no_grad()
def run_comparison(
    objective: ObjectiveConfig, teacher: Teacher, teacher_config: AnyTeacherConfig, lift: Lift, parts: Parts
) -> Comparison:
    """The comparison of a run. Collective where it needs samples: rank 0 draws them.

    Raises:
        ValueError: the samples do not suit the teacher or the distance.
    """
    classes, side = teacher.num_classes, teacher.image_size
    if objective.reference == "samples" and classes is None:
        raise ValueError("reference 'samples' needs a teacher of classes: captions are too many to draw ahead")
    if not (objective.needs_samples or objective.distance.remembers):
        return comparison(objective)
    samples = None
    if objective.needs_samples:
        samples = reference_samples(objective.samples, teacher, teacher_config, lift, parts.folder, parts.world)
    maps = lift.features(torch.zeros(1, 3, side, side, device=parts.device, dtype=teacher.codebook.dtype))
    shapes = [(one.shape[1], one.shape[2]) for one in maps]
    made = comparison(objective, Scene(shapes, classes, samples.features if samples else ()), samples)
    made.distance.to(parts.device)
    return made
