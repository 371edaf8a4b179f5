"""Batches that shrink where memory ends, against what a plain loop gives."""

import pytest
import torch

from fpd_eval.commands.usage import batch_size_of
from fpd_eval.runtime.batching import in_batches


@pytest.mark.parametrize(("fits", "sizes"), [(8, [4, 4, 2]), (3, [2, 2, 2, 2, 2]), (1, [1] * 10)])
def test_every_item_is_worked_on_once_in_order_at_the_size_that_fits(fits, sizes):
    items = list(range(10))

    def work(part):
        if len(items[part]) > fits:
            raise torch.OutOfMemoryError("no room")
        return items[part]

    done = list(in_batches(work, 10, 4))
    assert [len(part) for part in done] == sizes
    assert [item for part in done for item in part] == items


def test_a_network_that_fits_no_image_is_said_to():
    def work(part):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(ValueError, match="not one image fits"):
        list(in_batches(work, 10, 4))


def test_the_option_is_auto_or_a_number():
    assert batch_size_of("auto") is None
    assert batch_size_of("12") == 12
    for wrong in ("0", "-3", "many", "1.5", ""):
        with pytest.raises(ValueError, match="auto or a positive number"):
            batch_size_of(wrong)
