"""Transformers by what they read beside tokens and condition: nothing, Di4C's λ, D-MMD's noise."""

from typing import Any, TypeVar

from fpd_core.networks.latent_input import ReadsLatent
from fpd_core.networks.maskgit import MaskGit
from fpd_core.networks.noise_input import ReadsNoise
from fpd_core.networks.scene_transformer import SceneTransformer
from fpd_core.networks.token_transformer import ExtraInput, TokenTransformer


class LatentMaskGit(ReadsLatent, MaskGit):
    """λ is a token behind the class."""


class NoiseMaskGit(ReadsNoise, MaskGit):
    """Noise on the image tokens."""


class LatentSceneTransformer(ReadsLatent, SceneTransformer):
    """λ is one word more."""


class NoiseSceneTransformer(ReadsNoise, SceneTransformer):
    """Noise on the image tokens."""


_KINDS: tuple[type[TokenTransformer], ...] = (
    *(MaskGit, LatentMaskGit, NoiseMaskGit),
    *(SceneTransformer, LatentSceneTransformer, NoiseSceneTransformer),
)


Family = TypeVar("Family", bound=TokenTransformer)


def network_reading(family: type[Family], config: Any, extra_input: ExtraInput) -> Family:
    """A network of the family with untrained weights."""
    return next(kind for kind in _KINDS if issubclass(kind, family) and kind.extra_input == extra_input)(config)


def extended(network: Family, extra_input: ExtraInput) -> Family:
    """A copy that reads one thing more. The layers that this takes are untrained."""
    copy = network_reading(type(network), network.config, extra_input)
    copy.to(network.tok_emb.weight.device).train(network.training)
    added = copy.load_state_dict(network.state_dict(), strict=False)
    assert not added.unexpected_keys
    return copy
