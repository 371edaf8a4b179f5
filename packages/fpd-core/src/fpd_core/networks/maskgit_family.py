"""The MaskGIT transformer by what it reads beside tokens and class: nothing, Di4C's λ, D-MMD's noise."""

from fpd_core.networks.latent_maskgit import LatentMaskGit
from fpd_core.networks.maskgit import ExtraInput, MaskGit, MaskGitConfig
from fpd_core.networks.noise_maskgit import NoiseMaskGit

_NETWORKS: dict[ExtraInput, type[MaskGit]] = {"none": MaskGit, "latent": LatentMaskGit, "noise": NoiseMaskGit}


def maskgit_network(config: MaskGitConfig, extra_input: ExtraInput) -> MaskGit:
    """A network with untrained weights."""
    return _NETWORKS[extra_input](config)


def extended(network: MaskGit, extra_input: ExtraInput) -> MaskGit:
    """A copy that reads one thing more. The layers that this takes are untrained."""
    copy = maskgit_network(network.config, extra_input).to(network.bias.device).train(network.training)
    added = copy.load_state_dict(network.state_dict(), strict=False)
    assert not added.unexpected_keys
    return copy
