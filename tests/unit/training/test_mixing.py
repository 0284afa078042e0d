"""mixup and CutMix: images and targets by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from transferline.fitting import Fit
from transferline.training.mixing import Mixing

IMAGES = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 8, 8).contiguous()  # image k is k everywhere
TARGETS = torch.eye(6)


def mixed(epoch: int = 0, step: int = 0, seed: int = 1, **config: Any) -> tuple[Tensor, Tensor]:
    return Mixing(Fit.model_validate(config), seed)(IMAGES, TARGETS, epoch, step)


def test_without_either_nothing_is_touched() -> None:
    images, targets = mixed()
    assert images is IMAGES
    assert targets is TARGETS


@pytest.mark.parametrize("step", range(5))
def test_mixup_mixes_images_and_targets_by_one_share(step: int) -> None:
    images, targets = mixed(step=step, mixup=1.0)
    partners = [int(row.clone().index_fill_(0, torch.tensor(k), 0).argmax()) for k, row in enumerate(targets)]
    (share,) = {round(float(row[k]), 5) for k, row in enumerate(targets) if partners[k] != k and row[k] < 1}
    expected = torch.stack([share * IMAGES[k] + (1 - share) * IMAGES[p] for k, p in enumerate(partners)])
    whole = targets.diagonal() == 1  # its own partner
    torch.testing.assert_close(images[~whole], expected[~whole], atol=1e-4, rtol=0)
    torch.testing.assert_close(images[whole], IMAGES[whole])
    torch.testing.assert_close(targets.sum(1), torch.ones(6))


@pytest.mark.parametrize("step", range(5))
def test_cutmix_pastes_one_box_and_the_targets_count_its_pixels(step: int) -> None:
    images, targets = mixed(step=step, cutmix=1.0)
    for number, (image, target) in enumerate(zip(images, targets, strict=True)):
        values, counts = image[0].unique(return_counts=True)
        shares = torch.zeros(6).index_put_((values.long(),), counts / 64)
        torch.testing.assert_close(target, shares)
        assert torch.equal(image[0], image[2])
        foreign = (image[0] != number).nonzero()
        if len(foreign):
            (top, left), (bottom, right) = foreign.amin(0).tolist(), foreign.amax(0).tolist()
            assert len(foreign) == (bottom - top + 1) * (right - left + 1)


def test_small_alphas_leave_images_almost_whole_and_1_is_uniform() -> None:
    for alpha, low, high in ((0.01, 0.0, 0.03), (1.0, 0.2, 0.3)):
        shares = torch.stack([mixed(step=step, mixup=alpha)[1].amax(1).amin() for step in range(200)])
        assert low <= float((1 - shares).mean()) <= high


def test_with_both_each_batch_is_mixed_by_one_of_them() -> None:
    pasted = 0
    for step in range(60):
        images, targets = mixed(step=step, mixup=1.0, cutmix=1.0)
        changed = (targets.diagonal() < 1).nonzero()
        pasted += bool(len(changed)) and len(images[changed[0]].unique()) == 2
    assert 15 < pasted < 45


def test_draws_are_a_function_of_seed_epoch_and_step() -> None:
    first = mixed(epoch=2, step=3, mixup=1.0)
    again = mixed(epoch=2, step=3, mixup=1.0)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for other in ({"epoch": 1, "step": 3}, {"epoch": 2, "step": 4}, {"epoch": 2, "step": 3, "seed": 2}):
        assert not torch.equal(first[1], mixed(mixup=1.0, **other)[1])
