"""Low-rank adapters: on every family, merged without a trace, sharing the teacher's memory, refusing what cannot be."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fpd_core import load_generator
from fpd_core.config import ConfigError
from fpd_core.networks.extra_inputs import LatentMaskGit
from fpd_core.networks.maskgen import MaskGen, MaskGenConfig
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.meissonic import Meissonic, MeissonicConfig
from fpd_core.networks.scene_transformer import SceneTransformer, SceneTransformerConfig
from fpd_core.networks.split_attention import split_attentions
from fpd_core.teachers import load_teacher
from fpd_train.ema import Ema, EmaConfig
from fpd_train.methods.adapter import AdapterConfig, adapted, merged
from fpd_train.methods.fpd import FpdConfig, FpdMethod
from fpd_train.methods.interface import Parts
from fpd_train.methods.student import trainable_copy

RANK = 4
MASKGIT = MaskGitConfig(codebook_size=11, num_classes=3, seq_len=9, width=24, depth=2, num_heads=2, mlp_width=32)


class Encoder(nn.Module):
    """A stranger's network over torch's own encoder layers, whose fused path reads weights past the layers."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(12, 16), nn.Linear(16, 11)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens):
        return self.head(self.layers(self.tokens(tokens)))


def maskgen():
    sizes = {"codebook_size": 13, "seq_len": 6, "width": 24, "depth": 2, "num_heads": 3, "mlp_width": 40}
    network = MaskGen(MaskGenConfig(**sizes, text_width=10, pooled_width=8, aesthetic_width=12, unused_rows=4))
    return network, (torch.randint(13, (2, 6)), torch.randn(2, 5, 10), torch.randn(2, 8), torch.tensor([6.5, 5.0]))


def meissonic():
    sizes = {"codebook_size": 11, "vocabulary": 14, "side": 4, "width": 32, "num_heads": 2, "mlp_width": 64}
    network = Meissonic(
        MeissonicConfig(**sizes, depth=2, single_depth=2, text_width=7, pooled_width=9, rotary_widths=(4, 6, 6))
    )
    text = torch.randn(2, 5, 7), torch.randn(2, 9)
    return network, (torch.randint(11, (2, 16)), *text, torch.rand(2, 5) * 9, torch.rand(2) * 9)


def scenes():
    network = SceneTransformer(SceneTransformerConfig(codebook_size=11, grid=3, width=32, depth=2, num_heads=2))
    return network, (torch.randint(11, (2, 9)), torch.randn(2, 12 + 9, 128))


FAMILIES = {
    "maskgit": lambda: (MaskGit(MASKGIT), (torch.randint(11, (2, 9)), torch.tensor([0, 2]))),
    "latent maskgit": lambda: (
        LatentMaskGit(MASKGIT),
        (torch.randint(11, (2, 9)), torch.tensor([0, 2]), 0.0, None, torch.rand(2)),
    ),
    "maskgen": maskgen,
    "meissonic": meissonic,
    "scenes": scenes,
    "torch's encoder": lambda: (Encoder(), (torch.randint(11, (2, 9)),)),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    torch.manual_seed(0)
    network, inputs = FAMILIES[request.param]()
    return network.eval(), inputs


def moved(student):
    """Every adapter somewhere else than where it began."""
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return student


def copied(network):
    from copy import deepcopy

    return deepcopy(network).requires_grad_(True)


@torch.no_grad()
def test_a_student_starts_as_its_teacher_and_merges_to_1e_5(family):
    """Every layer is adapted: one that the network reads without calling it would show after the merge alone."""
    network, inputs = family
    before = network(*inputs)
    student = adapted(copied(network), AdapterConfig(rank=RANK, alpha=6)).eval()
    torch.testing.assert_close(student(*inputs), before, rtol=1e-5, atol=1e-5)
    unmerged = moved(student)(*inputs)
    assert float((unmerged - before).abs().max()) > 1e-2
    plain = merged(student, network)
    torch.testing.assert_close(plain(*inputs), unmerged, rtol=1e-5, atol=1e-5)
    assert plain.state_dict().keys() == network.state_dict().keys()
    assert torch.equal(network(*inputs), before)


def test_only_adapters_are_trained_and_each_gets_a_gradient(family):
    network, inputs = family
    student = moved(adapted(copied(network), AdapterConfig(rank=RANK)))
    student(*inputs).square().sum().backward()
    trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
    assert trained
    for name, parameter in trained.items():
        assert "lora_" in name
        # MaskGen's last block drops what its text queries find.
        assert bool(parameter.grad.abs().sum() > 0) != name.startswith("blocks.1.attn.add_q_proj"), name


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("mha",), {"q_proj", "k_proj", "v_proj", "out_proj"}),
        (("q_proj", "v_proj"), {"q_proj", "v_proj"}),
        (("transformer.layers.1",), {"q_proj", "k_proj", "v_proj", "out_proj", "0", "3"}),
        (("net", "k_proj"), {"0", "3", "k_proj"}),
    ],
)
def test_targets_name_layers_or_what_holds_them(targets, expected):
    student = adapted(copied(MaskGit(MASKGIT)), AdapterConfig(rank=RANK, targets=targets))
    layers = {name.split(".lora_A")[0] for name, _ in student.named_parameters() if ".lora_A" in name}
    assert {name.split(".")[-1] for name in layers} == expected
    assert all(".layers.1." in name for name in layers) == (targets == ("transformer.layers.1",))


def test_a_delta_is_alpha_over_rank_times_the_product():
    network = MaskGit(MASKGIT)
    student = moved(adapted(copied(network), AdapterConfig(rank=RANK, alpha=10, targets=("k_proj",))))
    attention = "transformer.layers.0.0.fn.mha"
    layer = student.get_submodule(f"{attention}.k_proj")
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    delta = (
        merged(student, network).get_submodule(attention).in_proj_weight
        - network.get_submodule(attention).in_proj_weight
    )
    torch.testing.assert_close(delta[24:48], 10 / RANK * b @ a, rtol=1e-4, atol=1e-6)
    assert not delta[:24].any()
    assert not delta[48:].any()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rank": 25}, r"rank 25 is above the width 24 of \S+: choose 24 or less"),
        ({"targets": ("q_prj",)}, r"unknown adapter target 'q_prj'; did you mean 'q_proj'\? known: .*out_proj"),
        ({"targets": ("mha", "tok_emb")}, "unknown adapter target 'tok_emb'"),
    ],
)
def test_what_cannot_be_adapted_is_answered_in_a_sentence(section, message):
    with pytest.raises(ConfigError, match=message) as caught:
        adapted(copied(MaskGit(MASKGIT)), AdapterConfig(**section))
    assert "\n" not in str(caught.value)


def test_an_attention_that_cannot_be_split_is_refused():
    with pytest.raises(ConfigError, match="batch_first"):
        split_attentions(nn.ModuleList([nn.MultiheadAttention(8, 2)]))


def test_masks_are_refused_where_projections_are_layers():
    holder = nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True)])
    split_attentions(holder)
    x = torch.randn(1, 3, 8)
    with pytest.raises(ValueError, match="takes no mask"):
        holder[0](x, x, x, attn_mask=torch.zeros(3, 3))


def test_split_attention_is_torchs():
    original = nn.MultiheadAttention(8, 2, batch_first=True)
    nn.init.normal_(original.in_proj_bias)
    holder = nn.ModuleList([original])
    split_attentions(holder)
    q, k, v = torch.randn(3, 2, 5, 8)
    torch.testing.assert_close(holder[0](q, k, v)[0], original(q, k, v, need_weights=False)[0])


@pytest.fixture
def method(teacher_folder):
    section = {"teacher": {"name": "fashion", "path": str(teacher_folder)}, "lift": {"space": "pixel"}}
    config = FpdConfig.model_validate(section | {"adapter": {"rank": RANK}})
    torch.manual_seed(0)
    return FpdMethod(config, Parts(torch.device("cpu"), world=1, seed=0, steps=4))


def test_frozen_parts_are_not_adapted(teacher_folder, monkeypatch):
    teacher = load_teacher({"name": "fashion", "path": str(teacher_folder)})
    with pytest.raises(ConfigError, match="part of this family to freeze"):
        trainable_copy(teacher.network, ("positons",), AdapterConfig(rank=RANK))
    monkeypatch.setattr(MaskGit, "parameter_groups", lambda self: {"head": list(self.last_layer.parameters())})
    student = trainable_copy(teacher.network, None, AdapterConfig(rank=RANK))
    assert not [name for name, p in student.named_parameters() if p.requires_grad and name.startswith("last_layer")]


def test_teacher_student_and_average_read_the_same_memory(method):
    student = method.networks["student"]
    ema = Ema(student, EmaConfig(), saves_frozen=False)
    own = {p.data_ptr() for p in method._teacher.network.parameters()}
    for module in (student, ema.module):
        new = {name for name, p in module.named_parameters() if p.data_ptr() not in own}
        # Two thirds of a joint projection begin inside the teacher's tensor.
        assert all("lora_" in name or "k_proj" in name or "v_proj" in name for name in new)
    frozen = [p for p in student.parameters() if not p.requires_grad]
    frozen[0].data = frozen[0].data.bfloat16()  # as an engine does
    assert {p.dtype for p in method._teacher.network.parameters()} == {torch.float32}


def test_the_average_holds_adapters_alone_and_takes_nothing_else(method):
    ema = Ema(method.networks["student"], EmaConfig(), saves_frozen=False)
    state = ema.state()
    assert state
    assert all("lora_" in name for name in state)
    ema.load({name: value + 1 for name, value in state.items()}, "here")
    assert all(torch.equal(value, state[name]) for name, value in ema.state().items())  # the same memory
    with pytest.raises(ValueError, match="here does not fit"):
        ema.load(dict(list(state.items())[1:]), "here")


def test_an_export_has_no_adapters_and_draws_as_the_student(method, tmp_path):
    student = moved(method.networks["student"])
    method.export(tmp_path / "student", {"student": student}, "# card")
    generator = load_generator(tmp_path / "student")
    tokens, labels = torch.randint(12, (2, 64)), torch.tensor([0, 2])
    with torch.no_grad():  # the file is float16
        torch.testing.assert_close(generator.model.network(tokens, labels), student(tokens, labels), rtol=0, atol=3e-2)
    names = load_file(tmp_path / "student" / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name or "q_proj" in name for name in names)
