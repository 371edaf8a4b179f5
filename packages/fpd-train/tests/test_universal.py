"""Shards of ranks put together by hand-made examples: cut weights at stages 1 and 2, padded ones at stage 3."""

from dataclasses import dataclass

import pytest
import torch

from fpd_train.universal import check_stages, convert

FIRST, SECOND = torch.arange(10.0, 15), torch.arange(20.0, 24)  # two weights of 5 and 4 entries


@dataclass
class Place:
    start: int
    numel: int


def averages(flat):
    return {"step": torch.tensor(3.0), "exp_avg": -flat, "exp_avg_sq": flat**2}


def cut(flat, mapping):
    """A rank's states at stage 1: the weights lie one behind the other, cut anywhere."""
    base = {"state": {0: averages(flat)}, "param_groups": [{"lr": 0.5, "params": [0]}]}
    own = {"base_optimizer_state": base, "param_slice_mappings": [mapping], "clip_grad": 1.0}
    return {"optimizer_state_dict": {**own, "single_partition_of_fp32_groups": [flat]}}


def padded(flat):
    """A rank's states at stage 3: an equal part of every weight."""
    base = {"state": {0: averages(flat)}, "param_groups": [{"lr": 0.5, "params": []}]}
    return {"optimizer_state_dict": {"optimizer_state_dict": base, "fp32_flat_groups": [flat], "overflow": False}}


STAGES = {
    2: [
        cut(torch.cat([FIRST[:3]]), {"a": Place(0, 3)}),
        cut(torch.cat([FIRST[3:], SECOND[:1]]), {"a": Place(0, 2), "b": Place(2, 1)}),
        cut(torch.cat([SECOND[1:], torch.zeros(1)]), {"b": Place(0, 3)}),  # padded at the end
    ],
    3: [
        padded(torch.cat([FIRST[:2], SECOND[:2]])),
        padded(torch.cat([FIRST[2:4], SECOND[2:]])),
        padded(torch.cat([FIRST[4:], torch.zeros(1), torch.zeros(2)])),
    ],
}


@pytest.mark.parametrize("stage", STAGES)
def test_three_ranks_become_whole_weights(tmp_path, stage):
    source, target = tmp_path / "student", tmp_path / "converted"
    source.mkdir()
    for rank, state in enumerate(STAGES[stage]):
        torch.save(state, source / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    name = "zero_pp_rank_0_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
    torch.save({"param_shapes": [{"a": torch.Size([5]), "b": torch.Size([2, 2])}]}, source / name)
    convert(source, target, stage, lambda path: torch.load(path, weights_only=False))
    for weight, expected in (("a", FIRST), ("b", SECOND)):
        values = {
            key: torch.load(target / "zero" / weight / f"{key}.pt")["param"]
            for key in ("fp32", "exp_avg", "exp_avg_sq")
        }
        assert torch.equal(values["fp32"], expected)
        assert torch.equal(values["exp_avg"], -expected)
        assert torch.equal(values["exp_avg_sq"], expected**2)
    of_all = torch.load(target / "zero" / "optimizer_state.pt")
    assert "fp32_flat_groups" not in of_all
    assert "single_partition_of_fp32_groups" not in of_all
    assert (target / name).exists()


def test_an_optimizer_without_first_averages_stays_at_its_ranks_in_stage_3(tmp_path):
    source = tmp_path / "student"
    source.mkdir()
    state = padded(torch.zeros(4))
    del state["optimizer_state_dict"]["optimizer_state_dict"]["state"][0]["exp_avg"]
    torch.save(state, source / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    torch.save({"param_shapes": [{"a": torch.Size([4])}]}, source / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    with pytest.raises(ValueError, match="start as many ranks as before"):
        convert(source, tmp_path / "target", 3, lambda path: torch.load(path, weights_only=False))


@pytest.mark.parametrize(
    ("earlier", "now", "goes_on"),
    [(0, 0, True), (1, 2, True), (2, 1, True), (3, 3, True), (0, 1, False), (1, 3, False), (3, 2, False)],
)
def test_stages_that_go_on(earlier, now, goes_on):
    if goes_on:
        check_stages(earlier, now)
        return
    with pytest.raises(
        ValueError, match=f"stage {earlier} and engine.zero_stage is {now}: .*; give zero_stage {earlier}"
    ):
        check_stages(earlier, now)
