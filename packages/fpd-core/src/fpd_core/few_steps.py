"""Students in N steps: what is shown to the network, and what is kept of its draws. One step is one forward pass.

`Scores` maps tokens [B, L] and the progress of the loop in [0, 1] to logits [B, L, K], guided and tempered.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fpd_core.masking import remask
from fpd_core.rivals.dimo import draw_probabilities
from fpd_core.rivals.dmmd import posterior
from fpd_core.rivals.redi import draw_pairs
from fpd_core.schedules import RevealRule, mask_ratio, reveal_plan
from fpd_core.ste import sample_tokens

Scores = Callable[[Tensor, float], Tensor]


def progress(step: int, steps: int) -> float:
    """Of step 0 <= step < steps: 0 in the first, 1 in the last; 1 in a single one."""
    return step / (steps - 1) if steps > 1 else 1.0


def refill(
    scores: Scores, start: Tensor, steps: int, *, mask_id: int, mask_share: float, generator: torch.Generator
) -> Tensor:
    """A draft, of which an ever smaller share is hidden and drawn again: what the fixed point of eq. 3 allows.

    Refill k of N - 1 hides r_init γ(k/N) of the tokens, γ the arccos law.

    Args:
        start: z_init [B, L].
        mask_share: r_init.

    Returns:
        [B, L] int64 in [0, K), as the other two.
    """
    tokens = sample_tokens(scores(start, progress(0, steps)), generator=generator)
    for k in range(1, steps):
        share = mask_share * float(mask_ratio(torch.tensor(k / steps, dtype=torch.float64), "arccos"))
        seen, is_hidden = remask(tokens, share, mask_id, generator)
        drawn = sample_tokens(scores(seen, progress(k, steps)), generator=generator)
        tokens = torch.where(is_hidden, drawn, tokens)
    return tokens


def ancestral(
    scores: Scores, start: Tensor, steps: int, *, mask_id: int, top_p: float = 1.0, generator: torch.Generator
) -> Tensor:
    """Masked diffusion on the uniform grid t = 1, 1 - 1/N, ... 0: a mask at t stays at s with probability s/t.

    Args:
        start: [B, L], all masked.
        top_p: tokens are drawn from the likeliest codes of this probability; 1 leaves all in.
    """
    tokens = start
    for k in range(steps):
        logits = scores(tokens, progress(k, steps))
        nucleus = logits if top_p == 1 else draw_probabilities(logits, top_p=top_p).log()
        drawn = sample_tokens(nucleus, generator=generator)
        uniform = torch.rand(tokens.shape, generator=generator, device=tokens.device)
        alpha_t, alpha_s = k / steps, (k + 1) / steps
        tokens = posterior(tokens, drawn, alpha_s, alpha_t, uniform, mask_id)
    return tokens


def by_confidence(
    scores: Scores,
    start: Tensor,
    steps: int,
    *,
    mask_id: int,
    ranking_noise: float = 4.5,
    rule: RevealRule = "corrected",
    generator: torch.Generator,
) -> Tensor:
    """The teacher's loop: the draws that the network is surest of are fixed first. All positions are open at first,
    those too that do not show a mask (ReDi's sources)."""
    plan = reveal_plan(start.shape[1], steps, rule=rule)
    uniform = torch.rand(steps, *start.shape, generator=generator, device=start.device).clamp_min(1e-20)
    gumbel = -(-uniform.log()).clamp_min(1e-20).log()
    # The unit "guidance" of the loop is its progress, which `scores` turns into a scale of its own.
    return draw_pairs(
        lambda tokens, one_and_progress: scores(tokens, one_and_progress - 1),
        lambda p: sample_tokens(p.log(), generator=generator),
        start,
        plan,
        gumbel,
        mask_id=mask_id,
        guidance=1.0,
        noise=ranking_noise,
    ).tokens
