"""Large codebooks in chunks: the same numbers and gradients as float64 formulas, the same law, less memory."""

from copy import deepcopy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fpd_core import codes
from fpd_core.lift import Lift, LiftConfig
from fpd_core.networks.maskgen import MaskGen, MaskGenConfig
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.objective import ObjectiveConfig, fixed_point_loss
from fpd_core.ste import sample_tokens, soft_embedding, straight_through, token_entropy

B, L, K, D = 2, 3, 23, 5
CHUNKS = [1, 4, 7, 22, 23]


@pytest.fixture
def logits():
    return torch.randn(B, L, K, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def codebook():
    return torch.randn(K, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_embedding_and_its_gradient_are_the_softmax_written_out(logits, codebook, chunk):
    """dℓ_k = p_k (E_k·v - p·E v), in float64."""
    leaf, v = logits.clone().requires_grad_(True), torch.randn(B, L, D)
    soft = soft_embedding(leaf, codebook, chunk=chunk)
    (soft * v).sum().backward()
    p = logits.double().softmax(-1)
    score = v.double() @ codebook.double().T
    torch.testing.assert_close(soft.double(), p @ codebook.double(), rtol=1e-6, atol=1e-6)
    expected = p * (score - (p * score).sum(-1, keepdim=True))
    torch.testing.assert_close(leaf.grad.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_straight_through_keeps_exact_codes(logits, codebook, chunk):
    tokens = torch.arange(B * L).view(B, L)
    leaf, whole = logits.clone().requires_grad_(True), logits.clone().requires_grad_(True)
    result = straight_through(leaf, tokens, codebook, chunk=chunk)
    assert torch.equal(result, codebook[tokens])
    result.square().sum().backward()
    straight_through(whole, tokens, codebook).square().sum().backward()
    torch.testing.assert_close(leaf.grad, whole.grad, rtol=1e-5, atol=1e-6)


def test_gradients_agree_with_finite_differences_in_float64():
    logits = torch.randn(1, 2, 9, dtype=torch.float64, requires_grad=True)
    codebook = torch.randn(9, 3, dtype=torch.float64)
    torch.autograd.gradcheck(lambda scores: soft_embedding(scores, codebook, chunk=4), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_half_precision_and_impossible_codes(logits, codebook, dtype):
    logits = logits.to(dtype)
    logits[..., 3] = -torch.inf
    leaf = logits.clone().requires_grad_(True)
    soft = soft_embedding(leaf, codebook, chunk=4)
    soft.sum().backward()
    p = logits.double().softmax(-1)
    torch.testing.assert_close(soft.double(), p @ codebook.double(), rtol=1e-5, atol=1e-5)
    assert leaf.grad.dtype == dtype
    assert bool(leaf.grad.isfinite().all())
    entropy = -(p * p.clamp_min(1e-300).log()).sum(-1).mean()
    assert float(token_entropy(logits, chunk=4)) == pytest.approx(float(entropy), abs=1e-5)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_entropy_is_the_definition(logits, chunk):
    p = logits.double().softmax(-1)
    assert float(token_entropy(logits, chunk=chunk)) == pytest.approx(float(-(p * p.log()).sum(-1).mean()), abs=1e-6)


def drawn(logits, chunk, temperature=1.0, seed=3):
    return codes.chunked_sample(logits, temperature, torch.Generator().manual_seed(seed), chunk)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_invert_the_distribution_function(logits, temperature):
    """One uniform per position; the code where a float64 sum in a loop passes it."""
    uniform = torch.rand(B, L, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    p = (logits.double() / temperature).softmax(-1)
    expected = torch.empty(B, L, dtype=torch.int64)
    for b in range(B):
        for place in range(L):
            total, code = 0.0, -1
            while total <= uniform[b, place]:
                code += 1
                total += float(p[b, place, code])
            expected[b, place] = code
    for chunk in CHUNKS:
        assert torch.equal(drawn(logits, chunk, temperature), expected)


def test_draws_follow_the_law(logits):
    """Chi-square of 40,000 draws in chunks; 22 degrees of freedom exceed 48.3 once in a thousand."""
    row = logits[:1, :1].expand(1, 40_000, K)
    tokens = sample_tokens(row, 1.0, torch.Generator().manual_seed(5), chunk=6)
    counts = torch.bincount(tokens.flatten(), minlength=K)
    expected = 40_000 * logits[0, 0].double().softmax(-1)
    assert float(((counts - expected).square() / expected).sum()) < 48.3


def test_impossible_codes_are_never_drawn():
    logits = torch.full((1, 2000, 12), -torch.inf)
    logits[..., [3, 10]] = 0.0
    assert set(drawn(logits, 4).flatten().tolist()) == {3, 10}


def test_small_codebooks_are_read_whole_bit_by_bit(logits, codebook, monkeypatch):
    """What no chunk was asked for: the formulas as they always were, the same draws of `multinomial`."""
    monkeypatch.setattr(codes, "CHUNK", K)
    expected = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=torch.Generator().manual_seed(7))
    assert torch.equal(sample_tokens(logits, 1.0, torch.Generator().manual_seed(7)), expected.view(B, L))
    assert torch.equal(soft_embedding(logits, codebook), logits.softmax(-1) @ codebook)
    monkeypatch.setattr(codes, "CHUNK", K - 1)
    assert torch.equal(sample_tokens(logits, 1.0, torch.Generator().manual_seed(7)), drawn(logits, None, seed=7))


def test_a_chunk_of_no_codes_is_refused(logits):
    with pytest.raises(ValueError, match="at least one code, got 0"):
        token_entropy(logits, chunk=0)


class Largest(TorchDispatchMode):
    """Counts operations that make a new tensor of at least `size` elements."""

    def __init__(self, size):
        super().__init__()
        self.size, self.made = size, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        known = {a.untyped_storage().data_ptr() for a in arguments if isinstance(a, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.numel() >= self.size:
            self.made += result.untyped_storage().data_ptr() not in known
        return result


@pytest.mark.parametrize(("chunk", "most"), [(None, 3), (64, 1)])
def test_only_the_gradient_is_as_large_as_the_logits(chunk, most):
    """Whole: the probabilities, and two in the backward pass. In chunks: the gradient itself."""
    leaf = torch.randn(1, 4, 1000).requires_grad_(True)
    codebook = torch.randn(1000, 2)
    with Largest(leaf.numel()) as counted:
        straight_through(leaf, torch.zeros(1, 4, dtype=torch.int64), codebook, chunk=chunk).sum().backward()
        made = counted.made
        if chunk:
            token_entropy(leaf.detach(), chunk=chunk)
            sample_tokens(leaf, chunk=chunk)
            assert counted.made == made
    assert made == most


@pytest.mark.parametrize("family", ["maskgit", "maskgen"])
def test_a_joint_vocabulary_is_scored_at_its_codes_alone(family):
    """One table holds 13 codes, the mask and 900 rows of other things: no tensor has a score for those."""
    if family == "maskgit":
        sizes = MaskGitConfig(codebook_size=13, num_classes=900, seq_len=6, width=8, depth=1, num_heads=2, mlp_width=8)
        network, rest = MaskGit(sizes), (torch.tensor([1]),)
    else:
        small = {"codebook_size": 13, "seq_len": 6, "width": 8, "depth": 1, "num_heads": 2, "mlp_width": 8}
        text = {"text_width": 4, "pooled_width": 4, "aesthetic_width": 4, "unused_rows": 900}
        network = MaskGen(MaskGenConfig(**small, **text))
        rest = (torch.randn(1, 5, 4), torch.randn(1, 4), torch.tensor([6.5]))
    for part in network.parameter_groups().values():  # what a student keeps frozen
        torch.nn.ParameterList(part).requires_grad_(False)
    with Largest(6 * 900) as counted:
        network(torch.randint(13, (1, 6)), *rest)[..., :13].sum().backward()
    assert counted.made == 0


@pytest.mark.parametrize("estimator", ["straight_through", "soft"])
def test_the_loss_takes_its_codes_in_chunks(teacher, estimator):
    """The same draws, whatever the chunk below K; the loss and the student's gradients to 1e-6."""
    found = []
    for chunk in (5, teacher.codebook_size - 1):
        student = deepcopy(teacher.network).requires_grad_(True)
        config = ObjectiveConfig(estimator=estimator, code_chunk=chunk)
        lift = Lift(teacher, LiftConfig(space="pixel"))
        drawn = torch.Generator().manual_seed(2)
        result = fixed_point_loss(student, teacher, lift, teacher.condition([0, 1, 2, 1]), config, generator=drawn)
        result.loss.backward()
        found.append((result, torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])))
    (one, gradient), (other, expected) = found
    assert float(one.loss) == pytest.approx(float(other.loss), rel=1e-6)
    assert float(one.entropy) == pytest.approx(float(other.entropy), rel=1e-6)
    assert float((gradient - expected).norm()) < 1e-5 * float(expected.norm())
