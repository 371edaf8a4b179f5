"""Every rival's algorithm against numbers obtained by running the official functions (D-MMD: its printed equations).

`data/rivals_parity.{json,npz}.xz` hold inputs, random numbers included, and what came out; `FPD_RIVALS_FIXTURE` names
another .json of the same layout, its .npz beside it. The columns of logits are read as codes, the mask's column too,
except where the official program removes that column (SDTT, sampling of ReDi).
"""

import io
import json
import lzma
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fpd_core.guidance import GuidanceRamp, guided
from fpd_core.networks.extra_inputs import LatentMaskGit
from fpd_core.networks.latent_input import sinusoids
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.token_transformer import noised
from fpd_core.rivals import di4c, dimo, dmmd, redi, sdtt
from fpd_core.schedules import mask_ratio, reveal_plan
from fpd_train.ema import EmaConfig, decay_at

BUNDLED = Path(__file__).parent / "data/rivals_parity.json.xz"
FIXTURE = Path(os.environ.get("FPD_RIVALS_FIXTURE", BUNDLED))
# Largest error allowed, relative to max(1, |value|): Di[M]O was run in float32, the rest in float64.
TOLERANCE = {"dimo": 1e-6, "dimo/ema": 1e-12, "dimo/network": 1e-9, "": 1e-9}


def opened(path):
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


TREE = json.loads(opened(FIXTURE))
ARRAYS = np.load(io.BytesIO(opened(FIXTURE.parent / FIXTURE.name.replace(".json", ".npz"))))
CASES = {case["id"]: case for case in TREE["cases"]}
MASK_ID = TREE["sizes"]["mask_id"]


def value(found):
    """Arrays as float64, int64 or bool tensors; numbers and lists as they stand."""
    if not (isinstance(found, dict) and set(found) == {"array"}):
        return found
    tensor = torch.from_numpy(ARRAYS[found["array"]])
    return tensor.double() if tensor.is_floating_point() else tensor if tensor.dtype == torch.bool else tensor.long()


def longest_prefix(table, name):
    known = [prefix for prefix in table if name.startswith(prefix)]
    if not known:
        pytest.fail(f"nothing of ours answers to case {name}")
    return table[max(known, key=len)]


def as_tensor(found):
    """Python's floats are float64."""
    return found if isinstance(found, torch.Tensor) else torch.from_numpy(np.asarray(found))


def assert_equal(name, found, expected, tolerance):
    """Whole numbers, booleans and structures exactly, floats within the tolerance."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), name
        for key in expected:
            assert_equal(f"{name}.{key}", found[key], expected[key], tolerance)
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict):
        assert len(found) == len(expected), name
        for mine, theirs in zip(found, expected, strict=True):
            assert_equal(name, mine, theirs, tolerance)
    else:
        found, expected = as_tensor(found), as_tensor(expected)
        assert found.shape == expected.shape, name
        if not expected.is_floating_point():
            assert torch.equal(found.to(expected.dtype), expected), name
            return
        error = ((found.double() - expected).abs() / expected.abs().clamp_min(1)).max().item()
        print(f"{name}: {error:.1e}")  # pytest -rP shows it
        assert error <= tolerance, f"{name} differs by {error:.1e}"


def gradient_of(loss, *leaves):
    return torch.autograd.grad(loss, leaves, retain_graph=True)


def leaf(tensor):
    return tensor.clone().requires_grad_()


def by_formula(network):
    """Every weight by the formula of the fixture's conventions, in the order of the state dict; float64, eval mode."""
    network = network.double().eval()
    norms = {f"{name}.weight" for name, part in network.named_modules() if isinstance(part, nn.LayerNorm)}
    with torch.no_grad():
        for j, (name, weight) in enumerate(network.state_dict().items()):
            entries = torch.arange(weight.numel(), dtype=torch.float64)
            weight.copy_((0.05 * torch.sin(0.37 * entries + j)).view(weight.shape) + (name in norms))
    return network


def sizes_of(p):
    sizes = TREE["sizes"]
    return MaskGitConfig(
        codebook_size=sizes["codes"], seq_len=sizes["positions"], num_classes=p["num_classes"], width=p["width"],
        depth=p["depth"], num_heads=p["heads"], mlp_width=p["mlp_width"],
    )  # fmt: skip


def labels_of(p, i):
    return i["labels"].masked_fill(i["is_dropped"], p["num_classes"])


def dimo_remask(p, i):
    ratio = mask_ratio(i["ratio_uniform"], p["ratio_mode"])
    tokens, is_masked = dimo.hide(i["drawn_tokens"], ratio, i["place_uniform"], p["mask_id"])
    return {"tokens": tokens, "is_masked": is_masked, "ratio": ratio}


def dimo_initial_tokens(p, i):
    ratio = torch.full((len(i["random_codes"]),), p["init_mask_ratio"])
    tokens, is_masked = dimo.hide(i["random_codes"], ratio, i["place_uniform"], p["mask_id"])
    assert is_masked.sum(1).unique().numel() == 1
    return {"tokens": tokens, "masked_per_sample": int(is_masked[0].sum())}


def dimo_draw_probabilities(p, i):
    return {"probabilities": dimo.draw_probabilities(i["student_logits"], **p)}


def dimo_generator(p, i):
    ratio = mask_ratio(i["ratio_uniform"], p["ratio_mode"])
    tokens, is_masked = dimo.hide(i["drawn_tokens"], ratio, i["place_uniform"], MASK_ID)
    scale = GuidanceRamp(at_zero=1, at_one=p["true_cfg"]).at(ratio) if p["adaptive_cfg"] else p["true_cfg"]
    teacher = guided(i["teacher_cond_logits"], i["teacher_uncond_logits"], scale) / p["true_temp"]
    auxiliary = i["auxiliary_logits"]
    if p["fake_cfg_eval"] != 1:
        auxiliary = guided(auxiliary, i["auxiliary_uncond_logits"], p["fake_cfg_eval"])
    auxiliary = auxiliary / p["fake_temp"]
    beta = float(p["distil_loss_type"].removeprefix("Jeffreys_"))
    surrogate = dimo.surrogate(auxiliary, teacher, is_masked, beta)
    z = leaf(i["student_logits"])
    loss = dimo.generator_loss(z, surrogate, p["loss_reduction"])
    return {
        "loss": loss,
        "surrogate": surrogate,
        "grad_student_logits": gradient_of(loss, z)[0],
        "is_masked": is_masked,
        "remasked_tokens": tokens,
        "teacher_probabilities": teacher.softmax(-1),
        "auxiliary_probabilities": auxiliary.softmax(-1),
    }


def dimo_auxiliary(p, i):
    ratio = mask_ratio(i["ratio_uniform"], p["ratio_mode_fake"])
    _, is_masked = dimo.hide(i["drawn_tokens"], ratio, i["place_uniform"], MASK_ID)
    logits = leaf(i["auxiliary_logits"])
    found = dimo.auxiliary_loss(
        logits,
        i["drawn_tokens"],
        is_masked,
        teacher_smoothing=p["label_smoothing"],
        student_logits=i["student_logits"],
        soft_weight=p["alpha_fake"],
        soft_temperature=p["temperature_fake"],
    )
    return {
        "loss": found.loss,
        "loss_hard": found.hard,
        "loss_soft": found.soft,
        "grad_auxiliary_logits": gradient_of(found.loss, logits)[0],
        "is_masked": is_masked,
    }


def dimo_ema(p, i):
    decay = decay_at(p["global_step"], EmaConfig(decay=p["rate"]))
    return {"average_after": i["average_before"].lerp(i["weights"], 1 - decay)}


def dimo_network(p, i):
    network = by_formula(MaskGit(sizes_of(p)))
    embeddings, noise = network.tok_emb(i["tokens"]), i["noise"][:, : i["tokens"].shape[1]]
    return {
        "logits": network(i["tokens"], labels_of(p, i)),
        "logits_noisy": network.scores(noised(embeddings, noise, p["sigma"]), labels_of(p, i)),
    }


def sdtt_table(i):
    """The table network: its logits depend on every token."""
    return lambda tokens: i["teacher_base"] + torch.einsum("lj,bjk->blk", i["teacher_mix"], i["teacher_code"][tokens])


def released_steps(t, p):
    """The program's step times, which are not ours (`sdtt.step_times`)."""
    n, dt = p["num_distill_steps"], p["dt"]
    at = [t * s + (1 - t) * (t - n * dt) for s in torch.linspace(1, 0, n, dtype=torch.float64)]
    return [sdtt.Step(now, now - dt) for now in at]


def sdtt_distil(p, i):
    t, mask_id = torch.tensor(p["t"], dtype=torch.float64), p["mask_id"]
    tokens = sdtt.corrupt(i["clean_tokens"], t, i["mask_uniform"], mask_id)
    uniforms = [i[f"step_uniform_{k}"] for k in range(p["num_distill_steps"])]
    target = sdtt.teacher_target(sdtt_table(i), tokens, released_steps(t, p), uniforms, mask_id)
    z = leaf(i["student_logits"])
    log_student = sdtt.log_probabilities(z, tokens, mask_id)
    loss = sdtt.distil_loss(log_student, target.log_p, tokens == mask_id, p["distill_mode"])
    return {
        "loss": loss,
        "grad_student_logits": gradient_of(loss, z)[0],
        "noisy_tokens": tokens,
        "teacher_target_log_probabilities": target.log_p,
    } | {f"tokens_after_step_{k}": state for k, state in enumerate(target.states)}


def sdtt_ancestral_step(p, i):
    t = torch.tensor(p["t"], dtype=torch.float64)
    log_p = sdtt.log_probabilities(sdtt_table(i)(i["noisy_tokens"]), i["noisy_tokens"], p["mask_id"])
    return {"log_probabilities": log_p, "weights": sdtt.step_weights(log_p, sdtt.Step(t, t - p["dt"]), p["mask_id"])}


def sdtt_times(p, i):
    assert p["sampling_eps"] == sdtt.EARLIEST
    return {"t": sdtt.stratified_times(p["uniform"], p["batch"])}


def sdtt_rounds(p, i):
    plan = sdtt.rounds(
        p["orig_num_sampling_steps"], p["min_num_sampling_steps"], p["num_distill_steps"], p["grow_dt_every"]
    )
    return {
        "rounds": [asdict(one) for one in plan],
        "stops_at_step": len(plan) * p["grow_dt_every"],
        "handovers": len(plan) - 1,
    }


def di4c_partial(p, i, tokens, logits):
    return di4c.partial_states(
        tokens, i["tokens_drawn_by_teacher"], logits, i["gumbel"], i["r"], delta=p["r_delta"], mask_id=p["mask_id"],
        noise=p["r_temp"], steps=p["teacher_steps"], schedule=p["sched_mode"],
    )  # fmt: skip


def di4c_update(p, i):
    latents = p["latent_bsize"]
    z = leaf(i["student_logits"][:, :latents])
    found = di4c.di4c_loss(
        z,
        i["teacher_logits"],
        i["student_logits_on_partial"][:, :latents],
        i["tokens_drawn_from_partial"],
        i["clean_tokens"],
        i["r"],
        positions=torch.ones_like(i["clean_tokens"], dtype=torch.bool),
        data_weights=di4c.data_weight(i["r"], p["alpha_t"], p["alpha_const"]),
        delta=p["r_delta"],
        control_variate=p["use_cv"],
    )
    answers = {
        "loss": found.loss,
        "grad_student_logits": gradient_of(found.loss, z)[0],
        "data_loss_cor": found.data_correlated,
        "data_loss_indep": found.data_independent,
        "data_loss_weighted": found.data,
        "distil_loss_weighted": found.distillation,
        "consis_loss_cor": found.consistency_correlated,
        "consis_loss_indep": found.consistency_independent,
        "consis_loss_weighted": found.consistency,
    }
    if "mask_uniform" in i:
        masked = di4c.mask_by(i["clean_tokens"], i["r"], i["mask_uniform"], p["mask_id"], p["sched_mode"])
        partial = di4c_partial(p, i, masked, i["teacher_logits"]).tokens
        answers |= {"masked_tokens": masked, "partial_tokens": partial}
    return answers


def di4c_teacher_step(p, i):
    logits = guided(
        i["teacher_logits"], i["teacher_uncond_logits"], di4c.guidance_scale(i["r"], p["cfg_w"], p["teacher_steps"])
    )
    assert torch.equal(i["is_masked"], i["masked_tokens"] == p["mask_id"])
    found = di4c_partial(p, i, i["masked_tokens"], logits)
    revealed = found.revealed[:, None].expand(-1, p["latent_bsize"]).double()
    return {"partial_tokens": found.tokens, "guided_logits": logits, "revealed_per_sample": revealed}


def di4c_network(p, i):
    network = by_formula(LatentMaskGit(sizes_of(p)))
    assert [[name, list(weight.shape)] for name, weight in network.state_dict().items()] == p["state_dict"]
    labels = labels_of(p, i)
    return {
        "logits_without_lambda": network(i["tokens"], labels),
        "logits": network(i["tokens"], labels, latent=i["lambda"]),
        "sinusoids": sinusoids(i["lambda"]),
    }


def plans(rule):
    def answer(p, i):
        return {name: reveal_plan(p["seq_len"], number_in(name), p["sched_mode"], rule) for name in i["wanted"]}

    return answer


def number_in(name):
    """steps_4 -> 4."""
    return int(name.rpartition("_")[2])


def redi_source(p, i):
    return {"tokens": redi.source_tokens(i["source_codes"], i["source_uniform"], p["mask_id"], p["interpolate_rate"])}


def redi_training(p, i, source):
    seen, is_source = redi.blend(
        source, i["target_tokens"], redi.source_share(i["progress_uniform"], p["train_sch"]), i["place_uniform"]
    )
    logits = leaf(i["logits"])
    found = redi.pair_loss(
        logits,
        seen,
        is_source,
        i["target_tokens"],
        positions=torch.ones_like(is_source),
        mask_id=p["mask_id"],
        label_smoothing=p["label_smoothing"],
        visible_weight=p["lambda_gt"],
    )
    return {
        "loss": found.loss,
        "grad_logits": gradient_of(found.loss, logits)[0],
        "network_input": seen,
        "is_source": is_source,
        "is_corrupted": is_source,
        "loss_visible_part": found.visible,
        "loss_mask_part": found.masked,
        "loss_random_part": found.random,
    }


def redi_pairs(p, i):
    return redi_training(p, i, i["source_tokens"])


def redi_first(p, i):
    return redi_training(p, i, redi_source(p, i)["tokens"])


def redi_accumulation(p, i):
    """The program's gradient is half of the last micro-batch's; ours, of the mean of both losses, must not be."""
    target = i["target_tokens"]
    bias = torch.zeros(i["logits_first"].shape[1:], dtype=torch.float64, requires_grad=True)

    def loss_of(logits):
        everywhere, smoothing = torch.ones_like(target, dtype=torch.bool), p["label_smoothing"]
        return redi.pair_loss(
            logits + bias, target, everywhere, target, positions=everywhere, mask_id=MASK_ID, label_smoothing=smoothing
        ).loss

    first, second = (
        gradient_of(loss_of(i[f"logits_{which}"]) / p["grad_cum"], bias)[0] for which in ("first", "second")
    )
    assert first.abs().max() > 1e-3
    return {"gradient_of_a_bias_added_to_the_logits": second}


def redi_learning_rate(p, i):
    assert p["warm_up"] == 0
    return {name: redi.learning_rate(number_in(name), p["lr"], p["cos_max_iter"]) for name in i["wanted"]}


def redi_sample(p, i):
    dropped = len(i["net_label"]) - 1

    def scores(tokens, labels):
        table = i["net_base"] + torch.einsum("lj,bjk->blk", i["net_mix"], i["net_code"][tokens])
        return table + i["net_label"][labels][:, None]

    def guided_logits(tokens, scale):
        return guided(scores(tokens, i["labels"]), scores(tokens, torch.full_like(i["labels"], dropped)), scale)

    schedule, _, second = p["sched_mode"].partition("_")
    plan = reveal_plan(i["source_tokens"].shape[1], p["steps"], schedule, "corrected" if second else "v1")
    draws = iter(i["drawn_tokens"])
    found = redi.draw_pairs(
        guided_logits,
        lambda probabilities: next(draws),
        i["source_tokens"],
        plan,
        i["gumbel"],
        mask_id=p["mask_id"],
        guidance=p["cfg_w"],
        constant_guidance=p["const_cfg"],
        masks_first=p["fill_mask_first"],
        multiplier=p["sm_temp"],
        noise=p["r_temp"],
    )
    return {
        "tokens": found.tokens,
        "open_after_step": torch.stack(found.is_open),
        "network_inputs": torch.stack(found.inputs),
        "plan": plan,
        "draw_probabilities": torch.stack(found.probabilities),
    }


def dmmd_posterior(p, i):
    alphas = p["alpha_s"], p["alpha_t"]
    tokens = dmmd.posterior(i["tokens_t"], i["drawn_tokens"], *alphas, i["step_uniform"], p["mask_id"])
    return {"tokens_s": tokens, "stay_masked_probability": dmmd.stay_probability(*alphas)}


def dmmd_generator(p, i):
    z = leaf(i["student_logits"])
    losses = dmmd.generator_losses(z, i["auxiliary_logits"], i["teacher_logits"], i["tokens_s"] == p["mask_id"])
    losses = p["weight"] * losses
    return {"loss_per_position": losses, "grad_student_logits_of_the_sum": gradient_of(losses.sum(), z)[0]}


def dmmd_auxiliary(source):
    def answer(p, i):
        z = leaf(i["auxiliary_logits"])
        target = {"drawn": i["drawn_tokens"]} if source == "hard" else {"student_logits": i["student_logits"]}
        losses = dmmd.auxiliary_losses(z, i["teacher_logits"], i["tokens_s"] == p["mask_id"], **target)
        return {"loss_per_position": losses, "grad_auxiliary_logits_of_the_sum": gradient_of(losses.sum(), z)[0]}

    return answer


def dmmd_top_p(p, i):
    log_p, is_inside = dmmd.lowered_outside_nucleus(i["teacher_logits"], p["top_p"], p["delta"])
    return {"in_nucleus": is_inside, "log_probabilities": log_p}


ANSWERS = {
    "dimo/remask/": dimo_remask,
    "dimo/initial_tokens/": dimo_initial_tokens,
    "dimo/draw_probabilities/": dimo_draw_probabilities,
    "dimo/generator/": dimo_generator,
    "dimo/auxiliary/": dimo_auxiliary,
    "dimo/ema/": dimo_ema,
    "dimo/network/embedding_noise": dimo_network,
    "sdtt/distil/": sdtt_distil,
    "sdtt/ancestral_step": sdtt_ancestral_step,
    "sdtt/times": sdtt_times,
    "sdtt/rounds/": sdtt_rounds,
    "di4c/update/": di4c_update,
    "di4c/teacher_step/": di4c_teacher_step,
    "di4c/network/lambda_token": di4c_network,
    "di4c/schedule/": plans("corrected"),
    "redi/source": redi_source,
    "redi/pairs/": redi_pairs,
    "redi/first_finetuning": redi_first,
    "redi/accumulation": redi_accumulation,
    "redi/learning_rate": redi_learning_rate,
    "redi/sample/": redi_sample,
    "redi/schedule_v1/": plans("v1"),
    "dmmd/posterior": dmmd_posterior,
    "dmmd/generator": dmmd_generator,
    "dmmd/auxiliary_hard": dmmd_auxiliary("hard"),
    "dmmd/auxiliary_soft": dmmd_auxiliary("soft"),
    "dmmd/top_p": dmmd_top_p,
}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    case = CASES[name]
    inputs = {key: value(found) for key, found in case["inputs"].items()} | {"wanted": list(case["expected"])}
    expected = {key: value(found) for key, found in case["expected"].items()}
    found = longest_prefix(ANSWERS, name)(case["parameters"], inputs)
    assert set(expected) <= set(found), f"{name} expects what ours does not give"
    for key, wanted in expected.items():
        assert_equal(f"{name} {key}", found[key], wanted, longest_prefix(TOLERANCE, name))


def test_there_are_cases_of_every_rival():
    assert {name.split("/")[0] for name in CASES} == {"dimo", "sdtt", "di4c", "redi", "dmmd"}


def test_a_case_nobody_knows_is_a_failure():
    with pytest.raises(pytest.fail.Exception, match="dimo/other"):
        longest_prefix(ANSWERS, "dimo/other")
