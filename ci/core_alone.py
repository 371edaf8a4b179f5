"""`fpd-core` with no other package of ours: opens a student and draws what it was asked for.

    FOLDER/bin/python -I ci/core_alone.py STUDENT CLASSIFIER

Run by the interpreter of an environment that holds the wheel. The bundled classifier recognises nine of ten garments of
the bundled student; chance is one.
"""

import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import torch

import fpd_core
from fpd_core import load_generator
from fpd_core.networks.classifier import load_classifier

student, classifier = map(Path, sys.argv[1:])
prefix = Path(sys.prefix)
assert Path(fpd_core.__file__).is_relative_to(prefix), fpd_core.__file__
assert not any(find_spec(name) for name in ("fpd_train", "fpd_eval", "own_teacher", "deepspeed", "torchmetrics"))
ours = sorted(dist.name for dist in distributions() if dist.name.startswith(("fpd", "fixed-point")))
assert ours == ["fpd-core"], ours
assert all(Path(place).is_relative_to(prefix) or "python3" in place for place in sys.path), sys.path

labels = [label for label in range(10) for _ in range(10)]
images = load_generator(student).generate(labels, seed=0)
assert images.shape == (100, 3, 32, 32)
judge = load_classifier(classifier)
with torch.no_grad():
    _, logits = judge(images)
right = (logits.argmax(dim=1) == torch.tensor(labels)).double().mean().item()
assert right > 0.8, right
print(f"fpd-core alone on Python {sys.version.split()[0]}: 100 images, {100 * right:.0f} % of the class asked for")
