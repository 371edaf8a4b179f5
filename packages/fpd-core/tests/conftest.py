"""A tiny, untrained member of the fashion family: every mechanism at work, nothing learnt."""

import pytest
import torch

from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.vq_tokenizer import VqTokenizer, VqTokenizerConfig
from fpd_core.teachers.fashion import FashionTeacher


@pytest.fixture
def teacher() -> FashionTeacher:
    torch.manual_seed(0)
    network = MaskGitConfig(
        codebook_size=12, num_classes=3, seq_len=64, width=24, depth=1, num_heads=2, mlp_width=32, dropout=0.1
    )
    tokenizer = VqTokenizerConfig(codebook_size=12, code_dim=5, widths=(8, 8, 8))
    return FashionTeacher(MaskGit(network), VqTokenizer(tokenizer))


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(7)
