"""Traps of MaskGen that parity at full size does not reach."""

import pytest
import torch

from fpd_core.networks.maskgen import MaskGen, MaskGenConfig

CONFIG = MaskGenConfig(
    codebook_size=13,
    seq_len=6,
    width=24,
    depth=2,
    num_heads=3,
    mlp_width=40,
    text_width=10,
    pooled_width=8,
    aesthetic_width=12,
    unused_rows=4,
)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MaskGen(CONFIG)


@pytest.fixture
def inputs(rng):
    tokens = torch.randint(13, (2, 6), generator=rng)
    tokens[:, 3:] = CONFIG.mask_id
    return tokens, torch.randn(2, 5, 10, generator=rng), torch.randn(2, 8, generator=rng), torch.tensor([6.5, 5.0])


def test_training_mode_does_not_mask_the_input(network, inputs):
    expected = network.eval()(*inputs)
    assert torch.equal(network.train()(*inputs), expected)


def test_the_head_is_the_table_of_codes(network, inputs):
    """Doubling code 4's row, which the tokens do not contain, doubles its logit alone."""
    tokens = inputs[0].masked_fill(inputs[0] == 4, 5)
    before = network(tokens, *inputs[1:])
    network.embeddings.weight.data[4] *= 2
    after = network(tokens, *inputs[1:])
    torch.testing.assert_close(after[..., 4], 2 * before[..., 4])
    rest = torch.arange(13) != 4
    assert torch.equal(after[..., rest], before[..., rest])
    assert after.shape == (2, 6, 13)


def test_every_input_counts(network, inputs):
    """The aesthetic score, the pooled vector and each text token, padding or not, reach the logits."""
    tokens, text, pooled, score = inputs
    base = network(*inputs)
    assert not torch.allclose(network(tokens, text, pooled, score + 1), base, atol=1e-6)
    assert not torch.allclose(network(tokens, text, pooled + 1, score), base, atol=1e-6)
    text = text.clone()
    text[:, -1] += 1
    assert not torch.allclose(network(tokens, text, pooled, score), base, atol=1e-6)


def test_embedding_noise_is_seeded_and_leaves_the_rest_alone(network, inputs):
    noisy = [network(*inputs, 0.3, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*noisy)
    assert not torch.allclose(noisy[0], network(*inputs), atol=1e-4)


def test_recomputed_activations_give_the_same_gradients(network, inputs):
    other = MaskGen(CONFIG.model_copy(update={"checkpoint_activations": True}))
    other.load_state_dict(network.state_dict())
    runs = []
    other.blocks[1].register_forward_pre_hook(lambda *_: runs.append(1))
    for each in (network, other):
        each(*inputs).square().mean().backward()
    assert len(runs) == 2  # once more in the backward pass
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_the_tied_head_has_no_weight_of_its_own(network):
    alias, name = next(iter(MaskGen.PUBLIC_ALIASES.items()))
    state = network.state_dict()
    assert name in state
    assert alias not in state
