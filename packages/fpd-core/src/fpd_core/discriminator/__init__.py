"""The projected discriminator of StyleGAN-XL, unconditional: real images against the student's (L = L_drift + λ L_gan).

images -> `augment` -> `features` (frozen, pretrained) -> `projection` (frozen, random) -> `heads` (trained) -> logits
"""

from fpd_core.discriminator.augment import augmented
from fpd_core.discriminator.balance import JointLoss, joint_loss
from fpd_core.discriminator.features import BranchConfig, DeitBranch, EfficientNetBranch, Features, Taps
from fpd_core.discriminator.hinge import discriminator_loss, generator_loss, share_called_real
from fpd_core.discriminator.network import Discriminator

__all__ = [
    "BranchConfig",
    "DeitBranch",
    "Discriminator",
    "EfficientNetBranch",
    "Features",
    "JointLoss",
    "Taps",
    "augmented",
    "discriminator_loss",
    "generator_loss",
    "joint_loss",
    "share_called_real",
]
