"""L = L_drift + λ L_gan, joined at the decoded images, where both forces act and can be compared."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class JointLoss:
    """`loss`: scalar with grad. Detached scalars: `gan`, L_gan; `weight`, the λ used; `ratio`, λ |∇L_gan| / |∇L_drift|
    at the images."""

    loss: Tensor
    gan: Tensor
    weight: Tensor
    ratio: Tensor


def joint_loss(
    drift: Tensor,
    images: Tensor,
    adversarial: Callable[[Tensor], Tensor],
    *,
    weight: float | None,
    gradient_ratio: float,
    gather: bool = False,
) -> JointLoss:
    """The drift and the adversarial loss of the same images.

    Both gradients are taken at the images, and only their sum goes on to the student: one backward through the decoder,
    and nothing flows into the discriminator's weights.

    Args:
        drift: scalar that depends on the student through `images` alone. Its graph up to there is used up.
        images: [B, 3, H, W] with graph.
        adversarial: images to L_gan, a scalar.
        weight: λ; None sets it so that λ |∇L_gan| is `gradient_ratio` of |∇L_drift|, in this batch.
        gather: norms over the samples of all ranks. Collective.
    """
    leaf = images.detach().requires_grad_()
    gan = adversarial(leaf)
    (push,) = torch.autograd.grad(gan, leaf)
    (pull,) = torch.autograd.grad(drift, images)
    squares = torch.stack([pull.float().square().sum(), push.float().square().sum()])
    if gather:
        dist.all_reduce(squares)
    pulled, pushed = squares.sqrt()
    scale = pushed / pulled.clamp_min(torch.finfo(pulled.dtype).tiny)
    chosen = gradient_ratio / scale if weight is None else torch.full_like(scale, weight)
    surrogate = (images * (pull + chosen * push)).sum()
    value = (drift + chosen * gan).detach()
    # The bracket is exactly zero: the value is that of the losses, the gradient that of the surrogate.
    return JointLoss(value + (surrogate - surrogate.detach()), gan.detach(), chosen, chosen * scale)
