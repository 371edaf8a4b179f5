"""The algorithms of other distillers of masked diffusion, one file each: what they compute, not how they are trained.

Nothing here draws a random number or runs an optimizer: uniform and Gumbel numbers and drawn tokens are arguments.
Logits are [B, L, K] over the codes; `mask_id` is at least K. The official networks score the mask id as one more code;
where their programs then take that column out again, both forms are accepted and the docstring says so.
"""
