"""Too little memory is one sentence with three settings, the first to change first."""

import sys

import pytest
import torch
from warm_python import outcome

from fpd_train.config import parse
from fpd_train.memory import is_out_of_memory, remedies

ENGINE_3 = {"zero_stage": 3, "precision": "bfloat16", "activation_checkpointing": "all", "offload": "all"}


@pytest.mark.parametrize(
    ("changes", "world", "expected"),
    [
        (
            {},
            1,
            [
                "micro_batch=4 with engine.accumulation=2 (the same batch)",
                "engine.activation_checkpointing=all",
                "engine.offload=optimizer",
            ],
        ),
        (
            {"micro_batch": 2, "engine": {"accumulation": 4}},
            2,
            ["engine.activation_checkpointing=all", "engine.zero_stage=2", "engine.offload=optimizer"],
        ),
        (
            {"micro_batch": 2, "engine": {"zero_stage": 0, "activation_checkpointing": "all"}},
            1,
            [
                "engine.offload=optimizer with zero_stage=1 (in a new output)",
                "engine.precision=bfloat16 (in a new output)",
                "method.teacher_precision=bfloat16 (in a new output)",
            ],
        ),
        (
            {"micro_batch": 2, "engine": ENGINE_3},
            8,
            [
                "method.teacher_precision=bfloat16 (in a new output)",
                "optimizer.first_moment=false",
                "ema.enabled=false",
            ],
        ),
    ],
)
def test_three_settings_in_order(config, changes, world, expected):
    """Two drafts per condition: a micro-batch of two cannot be halved."""
    assert remedies(parse(config | changes, "test"), world) == expected


def test_what_torch_says_of_no_room_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not is_out_of_memory(RuntimeError("The size of tensor a must match"))


def short_run(path):
    """What this file does when it is started as a script: a run in which the second step finds no room."""
    from fpd_train import trainer
    from fpd_train.cli import main

    def without_room(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of 79 GiB")

    trainer.train = without_room
    sys.argv = ["fpd-train", "run", "--config", path]
    main()


@pytest.mark.distributed
def test_a_run_without_room_ends_in_one_sentence(config, tmp_path, warm_python):
    import json

    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    code, output = outcome(warm_python.start([__file__, path], cwd=tmp_path))
    assert code == 2
    assert "out of memory (CUDA out of memory); set micro_batch=4 with engine.accumulation=2" in output
    assert "; then engine.activation_checkpointing=all; then engine.offload=optimizer; there is no" in output
    assert "Traceback" not in output


if __name__ == "__main__":
    short_run(sys.argv[1])
