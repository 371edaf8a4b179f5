"""One step of every rival, recomputed from what its networks saw and said; the traps; exports; rounds; two engines."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from fpd_core import load_generator
from fpd_core.conditioning import ClassCondition, PromptCondition, TextCondition
from fpd_core.rivals import di4c as di4c_equations
from fpd_core.rivals import sdtt as sdtt_equations
from fpd_train.batch import Batch
from fpd_train.config import TrainConfig
from fpd_train.data.pair_shards import PairBatch, Pairs
from fpd_train.methods import build_method, di4c
from fpd_train.methods.interface import Parts
from fpd_train.methods.rival import dropped

MASK, CODES, LENGTH, BATCH = 12, 12, 64, 6


def build(teacher_folder, steps=100, **section):
    teacher = {"name": "fashion", "path": str(teacher_folder)}
    data = {"name": "uniform_labels", "num_classes": 3}
    if section["name"] != "dimo" and section.get("stage", "real") == "real":
        data = {"name": "noise_images", "num_classes": 3, "image_size": 32}
    tree = {"output": "unused", "steps": steps, "method": section | {"teacher": teacher}, "data": data}
    torch.manual_seed(0)
    return build_method(TrainConfig.model_validate(tree).method, Parts(torch.device("cpu"), 1, 0, steps))


def batch():
    random = torch.Generator().manual_seed(0)
    return Batch(ClassCondition(torch.arange(BATCH) % 3), torch.rand(BATCH, 3, 32, 32, generator=random))


class Recorder:
    """A network that remembers what it saw and said."""

    def __init__(self, network):
        self.network, self.seen, self.said, self.extra = network, [], [], []

    def __call__(self, *inputs, **extra):
        output = self.network(*inputs, **extra)
        if isinstance(output, torch.Tensor) and output.requires_grad:
            output.retain_grad()
        self.seen.append(inputs[0])
        self.said.append(output)
        self.extra.append(extra)
        return output


def one_step(method, phase, given=None, step=0):
    forward = {name: Recorder(network) for name, network in method.networks.items()}
    teacher = Recorder(method.teacher.network.forward)
    method.teacher.network.forward = teacher
    loss, report = method.loss(phase, given or batch(), forward, torch.Generator().manual_seed(1), step)
    loss.backward()
    method.teacher.network.forward = teacher.network
    return loss.double(), report, forward, teacher


def log_p(logits):
    """Over the codes, in float64."""
    return logits.detach()[..., :CODES].double().log_softmax(-1)


def guided(teacher, g, call=0):
    """From the two calls that a guided teacher makes: with the class, then without."""
    c, u = (said[..., :CODES].double() for said in teacher.said[call : call + 2])
    return (u + g * (c - u)).log_softmax(-1)


def close(found, wanted):
    torch.testing.assert_close(found.double(), wanted.double(), rtol=2e-5, atol=2e-6)


def trained(method):
    return {name for name, one in method.networks.items() if any(p.grad is not None for p in one.parameters())}


@pytest.mark.parametrize("beta", [0.0, -0.2])
def test_dimo_puts_the_jeffreys_gradient_at_the_remasked_draft_on_the_logits_of_the_start(teacher_folder, beta):
    method = build(teacher_folder, name="dimo", beta=beta, guidance_scale=2.5)
    loss, _, forward, teacher = one_step(method, "student")
    z_init, (x_t,) = forward["student"].seen[0], forward["auxiliary"].seen
    assert ((z_init == MASK).sum(1) == 38).all()  # round(0.6 * 64)
    is_masked = (x_t == MASK)[..., None]
    a, t = log_p(forward["auxiliary"].said[0]), guided(teacher, 2.5)
    assert torch.equal(teacher.seen[0], x_t)
    kl = (a.exp() * (a - t)).sum(-1, keepdim=True)
    g = ((1 - beta) * (a.exp() - t.exp()) + beta * a.exp() * (a - t - kl)) * is_masked
    close(loss, g.square().sum() / 2 / BATCH)
    close(forward["student"].said[0].grad[..., :CODES], g / BATCH)
    assert trained(method) == {"student"}
    assert method.settings["auxiliary"].clip == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dimos_auxiliary_is_smoothed_as_its_teacher_was(teacher_folder, smoothing):
    method = build(teacher_folder, name="dimo")
    assert method.teacher.label_smoothing == 0
    method.teacher.label_smoothing = smoothing
    loss, _, forward, _ = one_step(method, "auxiliary")
    x_t, a = forward["auxiliary"].seen[0], log_p(forward["auxiliary"].said[0])
    draft = drawn_by(method, forward)
    hard = -a.gather(-1, draft[..., None])[..., 0]
    losses = (1 - smoothing) * hard - smoothing * a.mean(-1)
    close(loss, losses[x_t == MASK].mean())
    assert trained(method) == {"auxiliary"}


def drawn_by(method, forward):
    """The draft again: the same numbers up to the draw, from the start."""
    random = torch.Generator().manual_seed(1)
    condition = method.condition(batch())
    with torch.no_grad():
        draft = method.draw(method.networks["student"], condition, random)
    assert torch.equal(draft.seen, forward["auxiliary"].seen[0])
    shown = draft.seen != MASK
    assert torch.equal(draft.seen[shown], draft.tokens[shown])
    return draft.tokens


def test_soft_dimo_adds_its_weight_times_a_gradient_that_never_reaches_the_heads(teacher_folder):
    found = {}
    for weight in (0, 1, 3):
        method = build(teacher_folder, name="soft_dimo", gan_weight=weight)
        loss, report, *_ = one_step(method, "student")
        assert trained(method) == {"student"}
        parts = [p.grad.flatten() for p in method.networks["student"].parameters()]
        found[weight] = torch.cat(parts), report
        close(loss, torch.tensor(report["loss"] + weight * report["loss_gan"]))
    anchor = found[0][0]
    assert (found[1][0] - anchor).norm() > 1e-6
    torch.testing.assert_close(found[3][0] - anchor, 3 * (found[1][0] - anchor), rtol=1e-2, atol=1e-7)


def test_soft_dimos_heads_tell_real_embeddings_from_soft_ones(teacher_folder):
    method = build(teacher_folder, name="soft_dimo", highest_mask_share=0.0)
    loss, _, forward, _ = one_step(method, "heads")
    (logits,) = forward["heads"].said[0]
    fake, real = logits.detach().double().split(BATCH)
    close(loss, (torch.log1p(fake.exp()) + torch.log1p((-real).exp())).mean())
    (features,) = forward["heads"].seen[0]
    table = method.teacher.network.tok_emb.weight
    tokens = method.teacher.tokenize(batch().images)
    (wanted,) = method.teacher.network.features(table[tokens], torch.arange(BATCH) % 3, [0])
    close(features[BATCH:], wanted)
    assert trained(method) == {"heads"}


@pytest.mark.parametrize("updates", [100, 2])
def test_sdtt_learns_two_teacher_steps_as_one(teacher_folder, monkeypatch, updates):
    """In the first round the teacher is guided; from the second on it is a student, asked once a step."""
    method, times = build(teacher_folder, steps=6, name="sdtt", updates=updates, guidance_scale=3), []
    real = sdtt_equations.step_times
    monkeypatch.setattr(sdtt_equations, "step_times", lambda *given: times.append(given) or real(*given))
    method.remembered["teacher"] = Recorder(method.remembered["teacher"])
    step = 2 if updates == 2 else 0
    loss, _, forward, _ = one_step(method, "student", step=step)
    x_t, teacher = forward["student"].seen[0], method.remembered["teacher"]
    branches = 1 if updates == 2 else 2
    assert len(teacher.said) == 2 * branches
    first, second = (log_p(teacher.said[call]) if branches == 1 else guided(teacher, 3, call) for call in (0, branches))
    after_one = teacher.seen[branches]
    is_masked = x_t == MASK
    assert torch.equal(teacher.seen[0], x_t)
    target = torch.where((is_masked & (after_one != MASK))[..., None], first, second)
    student = log_p(forward["student"].said[0])
    kl = (student.exp() * (student - target)).sum(-1)
    close(loss, kl[is_masked].mean())
    ((time, delta, count),) = times
    assert count == 2
    assert delta == pytest.approx((1 - 1e-5) / (8 if updates == 2 else 16))
    found = torch.stack([torch.stack([one.now, one.then]) for one in real(time, delta, count)])
    wanted = torch.stack([torch.stack([time - i * delta, time - (i + 1) * delta]) for i in range(2)])
    torch.testing.assert_close(found, wanted.clamp_min(1e-5))


def test_sdtts_rounds_halve_the_steps_and_hand_the_raw_weights_over(teacher_folder, tmp_path):
    method = build(teacher_folder, steps=8, name="sdtt", updates=2, first_steps=16, last_steps=2)
    assert [done for done in range(1, 9) if method.ends_round(done)] == [2, 4, 6]
    masters = {name: value + 1 for name, value in method.networks["student"].named_parameters()}
    method.hand_over({"student": masters})
    held = dict(method.remembered["teacher"].named_parameters())
    assert all(torch.equal(held[name], value) for name, value in masters.items())
    assert not any(value.requires_grad for value in held.values())
    for done in (2, 4, 6):
        method.export_round(done, tmp_path, method.networks, "# card")
    method.export(tmp_path / "student", method.networks, "# card")
    steps = {path.name: load_generator(path).generation.steps for path in sorted(tmp_path.iterdir())}
    assert steps == {"student": 1, "student_2_steps": 2, "student_4_steps": 4, "student_8_steps": 8}
    with pytest.raises(ValueError, match="steps 9 is above the 4 rounds of 2 updates each"):
        build(teacher_folder, steps=9, name="sdtt", updates=2)


@pytest.mark.parametrize("name", ["di4c", "di4c-d"])
@pytest.mark.parametrize("positions", ["masked", "all"])
def test_di4c_counts_masked_positions_alone_unless_told(teacher_folder, monkeypatch, name, positions):
    method, drawn, r = build(teacher_folder, name=name, latents=3, positions=positions), [], []
    sample, masked = di4c.sample_tokens, di4c.mask_by
    monkeypatch.setattr(di4c, "sample_tokens", lambda *a, **k: drawn.append(sample(*a, **k)) or drawn[-1])
    monkeypatch.setattr(di4c, "mask_by", lambda *given: r.append(given[1]) or masked(*given))
    loss, report, forward, teacher = one_step(method, "student")
    (x_t,), student = teacher.seen, forward["student"]
    assert [one.shape for one in student.seen] == [(BATCH * 3, LENGTH)] * 2
    assert torch.equal(student.seen[1].view(BATCH, 3, LENGTH), x_t[:, None].expand(-1, 3, -1))
    latents = torch.cat([extra["latent"] for extra in student.extra])
    assert latents.unique().numel() == 2 * BATCH * 3
    q, s = (said.detach()[..., :CODES].reshape(BATCH, 3, LENGTH, CODES) for said in student.said)
    wanted = di4c_equations.di4c_loss(
        s,
        teacher.said[0][..., :CODES],
        q,
        drawn[1].view(BATCH, 3, LENGTH),
        method.teacher.tokenize(batch().images),
        r[0],
        positions=x_t == MASK if positions == "masked" else torch.ones_like(x_t, dtype=torch.bool),
        data_weights=0.1 * torch.sigmoid(20 * (0.5 - r[0])) if name == "di4c-d" else None,
        delta=1 / 16,
    )
    assert loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5)  # float32 both: J is a small difference of sums
    assert (report["data"] == 0) == (name == "di4c")
    if positions == "masked":
        ahead = student.seen[0].view(BATCH, 3, LENGTH)
        assert torch.equal(ahead[:, 0][x_t != MASK], x_t[x_t != MASK])


def pairs():
    """Sources of codes 0 to 5 and masks, targets of codes 6 to 11: what the network sees tells which is which."""
    random = torch.Generator().manual_seed(0)
    source = torch.randint(6, (BATCH, LENGTH), generator=random)
    source = source.masked_fill(torch.rand(BATCH, LENGTH, generator=random) < 0.3, MASK)
    target = torch.randint(6, 12, (BATCH, LENGTH), generator=random)
    return PairBatch(ClassCondition(torch.arange(BATCH) % 3), pairs=Pairs(source, target))


@pytest.mark.parametrize("stage", ["pairs", "distill"])
@pytest.mark.parametrize("positions", ["source", "all"])
def test_redi_counts_what_shows_the_source_alone_unless_told(teacher_folder, stage, positions):
    method, given = build(teacher_folder, name="redi", stage=stage, positions=positions), pairs()
    loss, _, forward, teacher = one_step(method, "student", given)
    (seen,), student = forward["student"].seen, log_p(forward["student"].said[0])
    assert teacher.seen == []  # no teacher is asked
    is_source = (seen < 6) | (seen == MASK)
    assert torch.equal(seen, torch.where(is_source, given.pairs.source, given.pairs.target))
    assert bool(is_source.all()) == (stage == "distill")
    hard = -student.gather(-1, given.pairs.target[..., None])[..., 0]
    losses = 0.9 * hard - 0.1 * student.mean(-1)
    close(loss, losses[is_source].mean() if positions == "source" else losses.mean())


def test_redi0_learns_real_tokens_from_sources_of_masks_and_codes(teacher_folder):
    method = build(teacher_folder, name="redi", class_dropout=0.0)
    _, report, forward, _ = one_step(method, "student")
    seen, real = forward["student"].seen[0], method.teacher.tokenize(batch().images)
    changed = seen != real
    masked = (seen == MASK).sum() / changed.sum()
    assert 0.2 < masked < 0.45  # 0.3 of the source, less the codes that were right by chance
    assert report["loss_visible"] == 0
    with pytest.raises(ValueError, match="stage 'pairs' learns from pairs; set data"):
        one_step(build(teacher_folder, name="redi", stage="pairs"), "student")


def test_captions_are_dropped_as_labels_are():
    """Whole conditions, all fields of a caption together, and as many as the share says."""
    given = TextCondition(torch.ones(4000, 3, 4), torch.ones(4000, 4), torch.ones(4000, 3, 5))
    null = TextCondition(*(torch.zeros_like(value) for value in (given.tokens, given.pooled, given.decoder)))
    found = dropped(given, null, 0.3, torch.Generator().manual_seed(0))
    kept = found.pooled[:, 0]
    assert kept.mean().item() == pytest.approx(0.7, abs=0.03)
    for value in (found.tokens, found.pooled, found.decoder):
        assert torch.equal(value, kept.view(-1, *[1] * (value.ndim - 1)).expand_as(value))


def test_redi_starts_from_the_stage_before(teacher_folder, tmp_path):
    before = build(teacher_folder, name="redi")
    with torch.no_grad():
        before.networks["student"].bias += 1
    before.export(tmp_path / "redi0", before.networks, "# card")
    after = build(teacher_folder, name="redi", stage="distill", start=str(tmp_path / "redi0"))
    torch.testing.assert_close(after.networks["student"].bias, before.networks["student"].bias, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("soft", [False, True])
def test_dmmd_by_its_printed_equations(teacher_folder, soft):
    def mean(losses, is_masked):
        return torch.stack([row[hidden].mean() for row, hidden in zip(losses, is_masked, strict=True)]).mean()

    method = build(teacher_folder, name="dmmd", student_steps=2, guidance_scale=2.5, soft_targets=soft)
    loss, _, forward, teacher = one_step(method, "student")
    z_t, z_s = forward["student"].seen[0], forward["auxiliary"].seen[0]
    assert torch.equal(z_s[z_t != MASK], z_t[z_t != MASK])
    assert forward["student"].extra[0]["noise"].shape == (BATCH, LENGTH, 16)
    p, apart = log_p(forward["student"].said[0]).exp(), log_p(forward["auxiliary"].said[0]) - guided(teacher, 2.5)
    close(loss, mean((p * apart).sum(-1), z_s == MASK))
    assert trained(method) == {"student"}

    method = build(teacher_folder, name="dmmd", student_steps=2, guidance_scale=2.5, soft_targets=soft)
    loss, _, forward, teacher = one_step(method, "auxiliary")
    z_t, z_s = forward["student"].seen[0], forward["auxiliary"].seen[0]
    a, p = log_p(forward["auxiliary"].said[0]), log_p(forward["student"].said[0]).exp()
    drawn = p if soft else F.one_hot(dmmd_draw(method), CODES).double()
    close(loss, mean(-((drawn + guided(teacher, 2.5).exp()) * a).sum(-1), z_s == MASK))
    assert trained(method) == {"auxiliary"}


def dmmd_draw(method):
    random, given = torch.Generator().manual_seed(1), batch()
    clean = method.teacher.tokenize(given.images)
    with torch.no_grad():
        return method._step(method.networks["student"], clean, method.condition(given), random).drawn


SECTIONS = [
    {"name": "dimo"},
    {"name": "soft_dimo"},
    {"name": "sdtt"},
    {"name": "di4c"},
    {"name": "di4c-d"},
    {"name": "redi"},
    {"name": "dmmd"},
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["name"])
def test_exports_open_and_draw_in_steps(teacher_folder, tmp_path, section):
    method = build(teacher_folder, **section)
    averaged = {name: network.eval() for name, network in method.networks.items()}
    method.export(tmp_path / "student", averaged, "# card")
    generator = load_generator(tmp_path / "student")
    for steps in (1, 2, 8):
        assert generator.sampled(steps=steps).generate([0, 1, 2], seed=1).shape == (3, 3, 32, 32)
    assert method.grid(averaged, torch.Generator().manual_seed(0)).shape == (60, 3, 32, 32)


PROMPTS = ("a photo of a dog", "a photo of two cups", "a photo of a red apple")


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["name"])
def test_every_rival_takes_captions_too(tmp_path, section):
    """The bundled scenes: every network learns in its phase, and another caption is another loss."""
    torch.manual_seed(0)
    data = {"name": "scenes", "has_images": section["name"] != "dimo"}
    tree = {"output": "unused", "steps": 100, "method": section | {"teacher": {"name": "scenes"}}, "data": data}
    config = TrainConfig.model_validate(tree)
    method = build_method(config.method, Parts(torch.device("cpu"), 1, 0, 100))
    given = next(config.data.open(batch_size=3, seed=0, rank=0, world=1, start=0))
    for phase in method.networks:
        losses = []
        for prompts in (PROMPTS, PROMPTS[::-1]):
            wanted = Batch(PromptCondition(prompts), given.images)
            loss, *_ = one_step(method, phase, wanted)
            losses.append(loss.item())
        assert losses[0] != losses[1]
        assert trained(method) == {phase}
        for network in method.networks.values():
            network.zero_grad(set_to_none=True)
    method.export(tmp_path / "student", {name: network.eval() for name, network in method.networks.items()}, "# card")
    generator = load_generator(tmp_path / "student")
    for steps in (1, 2):
        assert generator.sampled(steps=steps).generate(list(PROMPTS), seed=1).shape == (3, 3, 64, 64)


@pytest.mark.parametrize("name", ["sdtt", "dmmd", "di4c", "soft_dimo"])
def test_data_without_images_are_refused(config, teacher_folder, name):
    method = {"name": name, "teacher": config["method"]["teacher"]}
    with pytest.raises(ValueError, match=f"method {name} .* real images, and data.name 'uniform_labels' brings none"):
        TrainConfig.model_validate(config | {"method": method})


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["dimo", "sdtt"])
def test_a_run_resumes_both_engines_or_the_teacher_of_its_round(launch, config, tmp_path, name):
    """From the checkpoint of step 3, which for SDTT lies in the second round, the last three steps repeat exactly."""
    method = {"name": name, "teacher": config["method"]["teacher"], "grid_images": 10}
    if name == "sdtt":
        method |= {"updates": 2}
        config["data"] = {"name": "noise_images", "num_classes": 3, "image_size": 32}
    config |= {"method": method, "keep_checkpoints": 10}
    code, output = launch()
    assert code == 0, output
    straight = Path(config["output"])
    again = Path(shutil.copytree(straight, tmp_path / "again"))
    code, output = launch(arguments=["--checkpoint", "step_000003"], output=str(again))
    assert code == 0, output
    assert "at step 3" in output
    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (straight, again)
    ]
    one, two = ([{k: v for k, v in line.items() if k != "images_per_second"} for line in found] for found in lines)
    assert one == two
    assert len(one) == 6
    kept = {path.name for path in (straight / "checkpoints/step_000006").glob("*.safetensors")}
    if name == "sdtt":
        assert kept == {"student.ema.safetensors", "teacher.remembered.safetensors"}
        assert {path.name for path in straight.glob("student*")} == {"student", "student_8_steps", "student_4_steps"}
        assert [line["round"] for line in one] == [0, 0, 1, 1, 2, 2]
        earlier, later = (
            load_file(straight / f"checkpoints/step_00000{step}/teacher.remembered.safetensors") for step in (1, 3)
        )
        assert not torch.equal(earlier["bias"], later["bias"])
    else:
        assert kept == {"student.ema.safetensors", "auxiliary.ema.safetensors"}
        assert {"loss_auxiliary", "lr/auxiliary"} <= one[-1].keys()
    for file in kept:
        first, second = (load_file(folder / f"checkpoints/step_000006/{file}") for folder in (straight, again))
        assert all(torch.equal(value, second[key]) for key, value in first.items())
