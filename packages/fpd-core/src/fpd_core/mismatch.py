"""Why a published weight file does not fit a network, as far as names and shapes tell."""

from collections.abc import Mapping, Sequence

from torch import Tensor

# One key that no other published network has -> what the file holds.
_SIGNATURES = {
    "transformer.layers.0.0.fn.mha.in_proj_weight": "a MaskGIT v1 transformer, which the teacher `maskgit` reads",
    "transformer.layers.0.attn.wq.weight": "a Halton-MaskGIT v2 transformer, which the teacher `halton` reads",
    "decoder.up.0.block.0.norm1.weight": "a VQGAN tokenizer in taming-transformers' naming",
    "decoder.up_blocks.0.resnets.0.norm1.weight": "a VQ tokenizer in diffusers' naming",
    "cond_pooled_proj.weight": "a MaskGen transformer",
    "latent_tokens": "a TA-TiTok tokenizer",
    "transformer.resblocks.0.ln_1.weight": "a CLIP text tower in open_clip's naming",
    "text_model.embeddings.token_embedding.weight": "a CLIP text tower in transformers' naming",
    "single_transformer_blocks.0.attn.to_q.weight": "a Meissonic transformer",
    "reg_token": "a DINOv3 backbone in timm's naming",
    "embeddings.register_tokens": "a DINOv3 backbone in transformers' naming",
    "storage_tokens": "a DINOv3 backbone in Meta's naming; take timm/vit_base_patch16_dinov3.lvd1689m",
}
_POSITIONS, _TABLES = ("pos_emb", "pos_emb.weight"), ("tok_emb.weight", "embeddings.weight")
_CODES = "quantize.embedding.weight"


def likely_cause(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """One sentence on why a file does not fit, or an empty string."""
    found = _family(state)
    if found and found != _family(own):
        return f"the file holds {found}"
    have, want = _first_sizes(state, own, _POSITIONS, -2)
    if have != want:
        large = " (the 512-pixel model has 1025; fpd needs MaskGIT_ImageNet_256.pth)" if have == 1025 else ""
        return f"the file is for {have} positions instead of {want}, another image size{large}"
    have, want = _first_sizes(state, own, _TABLES, -1)
    if have != want:
        return f"the file's network is {have} channels wide instead of {want}, another size of the model"
    codes, wanted_codes = (tuple(each[_CODES].shape) if _CODES in each else None for each in (state, own))
    if codes and wanted_codes and codes != wanted_codes:
        return f"the file's codebook is {codes} instead of {wanted_codes}, another tokenizer's"
    if own.keys() == state.keys():
        return "the same architecture at another size; check the sizes in the config"
    return ""


def _first_sizes(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], keys: Sequence[str], dimension: int
) -> tuple[int | None, int | None]:
    """The size along `dimension` of the first of `keys` that both hold as a matrix or more; none: two None."""
    for key in keys:
        if key in state and key in own and min(state[key].dim(), own[key].dim()) > 1:
            return state[key].shape[dimension], own[key].shape[dimension]
    return None, None


def _family(state: Mapping[str, Tensor]) -> str:
    return next((family for key, family in _SIGNATURES.items() if key in state), "")
