"""Which trained network is taken: the best on validation, or the probe where chance tells them not apart."""

from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FrozenTrial
from safetensors.torch import save_file

from tests.unit.model import menu
from transferline.artifacts import FINE_TUNED, LINEAR_PROBE
from transferline.errors import UserError
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier, predict_logits, rebuild
from transferline.sections import Activations
from transferline.training.choice import Tried, best_trial, by_chance, choose, validation_logits
from transferline.training.data import Behind, Splits, embed


def tapped(taps: list[int], seed: int = 0) -> Classifier:
    net = menu.make("small_cnn", 32)
    net.card.taps[:] = taps
    made = rebuild(net, net.card, seed)
    generator = torch.Generator().manual_seed(1)
    made.head.standardise(torch.rand(made.head.mean.shape, generator=generator), 20 * torch.ones_like(made.head.scale))
    return made


def logits_of(losses: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logits of three classes whose log losses are these."""
    found = np.zeros((len(labels), 3))
    found[np.arange(len(labels)), labels] = np.log(2) - np.log(np.expm1(losses))
    return found.astype(np.float32)


# --- beyond chance --------------------------------------------------------------------------


def test_what_is_no_worse_beyond_chance() -> None:
    best, uneven = np.ones(100), np.tile([1.0, -0.9], 50)  # 0.05 in the mean, with a standard error of 0.095
    assert by_chance(best, best)
    assert by_chance(best - 0.1, best)
    assert by_chance(best + uneven, best)
    assert not by_chance(np.tile(best + uneven, 100), np.tile(best, 100)), "the same on ten thousand images"
    assert not by_chance(best + 0.01, best), "worse on every image"
    assert not by_chance(best + uneven, best, 0.5)


def trial(number: int, depth: int, value: float, lr: float = 1e-3) -> FrozenTrial:
    space = {
        "freeze_depth": optuna.distributions.IntDistribution(0, 13),
        "lr": optuna.distributions.FloatDistribution(1e-5, 1),
    }
    made = optuna.trial.create_trial(params={"freeze_depth": depth, "lr": lr}, distributions=space, value=value)
    made.number = number
    return made


UNEVEN = np.where(np.arange(16) % 2, 0.45, -0.4)  # 0.025 in the mean, with a standard error of 0.106


def test_the_best_trial_is_taken_and_of_equals_the_most_frozen() -> None:
    trials = [trial(0, 9, 0.7), trial(1, 2, 0.9), trial(2, 4, 0.9)]
    assert best_trial(trials, "macro_f1").number == 2
    assert best_trial(trials[:2], "accuracy").number == 1
    assert best_trial(trials, "loss").number == 0
    assert best_trial(trials[1:], "loss").number == 2


# --- weights --------------------------------------------------------------------------------


def test_what_was_tried_is_read_as_it_was_written_without_frozen_blocks(tmp_path: Path) -> None:
    net = tapped([1])
    net.freeze(3)
    made = Tried.of(net, np.arange(6, dtype=np.float32).reshape(2, 3))
    names = {key.split(".")[0] if key.startswith("head") else key[:9] for key in made.state}
    assert names == {"head", "blocks.3."}
    assert {"head.mean", "head.scale"} <= set(made.state)
    made.write(tmp_path / "new" / "tried.safetensors")
    found = Tried.read(tmp_path / "new" / "tried.safetensors")
    assert set(found.state) == set(made.state)
    assert all(torch.equal(value, made.state[key]) for key, value in found.state.items())
    np.testing.assert_array_equal(found.logits, made.logits)


def test_of_an_empty_file_nothing_was_tried(tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    found = Tried.read(tmp_path / "empty.safetensors")
    assert found.state == {}
    assert found.logits.shape == (0, 0)


def test_a_file_that_is_missing_broken_or_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights at all")
    for name in ("missing", "broken", "other"):
        with pytest.raises(UserError, match=name):
            Tried.read(tmp_path / f"{name}.safetensors")


# --- the choice -----------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [[], [1, 3]], ids=str)
def test_behind_every_kept_depth_logits_are_those_of_the_whole_network(
    splits: Splits, tmp_path: Path, taps: list[int]
) -> None:
    expected = predict_logits(tapped(taps), splits.val.images[:, 0], 16)
    assert np.ptp(expected, axis=0).min() > 1e-2, "images are told apart"
    cache = Cache(Activations(engine="torch", dtype="float32"), tmp_path)
    kept: dict[int, Behind | None] = {0: None, **embed(cache, tapped(taps), splits, range(1, 5))}
    assert list(kept) == [0, 1, 2, 3, 4]
    for depth, behind in kept.items():
        net = tapped(taps)
        net.freeze(depth)
        net.train()
        found = validation_logits(net, splits, behind, batch_size=4)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=f"depth {depth}")
        assert not net.training


def test_a_network_that_was_judged_can_still_be_trained(splits: Splits) -> None:
    net = tapped([])
    validation_logits(net, splits, None)
    net.train()(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())
    net.load_state_dict({key: value.clone() for key, value in net.state_dict().items()})


SMALL, LARGER = UNEVEN[:14], UNEVEN[:14] + 0.07  # 0.2 and 0.8 standard errors in the mean


@pytest.mark.parametrize(
    ("gain", "chosen", "reason"),
    [
        (np.full(14, 0.02), FINE_TUNED, "lower than the probe's, beyond chance"),
        (LARGER, FINE_TUNED, "lower than the probe's, beyond chance"),
        (SMALL, LINEAR_PROBE, "no lower beyond chance"),
        (np.zeros(14), LINEAR_PROBE, "no lower beyond chance"),
        (-LARGER, LINEAR_PROBE, "no lower beyond chance"),
    ],
)
def test_the_probe_is_left_for_a_gain_beyond_chance_alone(gain: np.ndarray, chosen: str, reason: str) -> None:
    labels, flat = np.arange(14) % 3, np.ones(14)
    start, end = (Tried({}, logits_of(losses, labels)) for losses in (flat, flat - gain))
    taken, made = choose(start, end, labels, refit=True)
    assert taken is (start if chosen == LINEAR_PROBE else end)
    assert (made.chosen, made.refit) == (chosen, True)
    assert reason in made.reason
    before, after = made.candidates
    assert (before.name, after.name) == (LINEAR_PROBE, FINE_TUNED)
    assert before.val_loss == pytest.approx(1.0, abs=1e-5)
    assert before.val_loss - after.val_loss == pytest.approx(float(gain.mean()), abs=1e-5)
    assert min(before.difference, after.difference) == 0
    assert max(before.difference, after.difference) == pytest.approx(abs(float(gain.mean())), abs=1e-5)
    error = before.standard_error or after.standard_error
    assert error == pytest.approx(float(gain.std() / 14**0.5), abs=1e-5)


def test_what_was_tried_stays_when_its_network_learns_on() -> None:
    net = tapped([1])
    tried = Tried.of(net, np.zeros((1, 3), np.float32))
    before = {key: value.clone() for key, value in tried.state.items()}
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in tried.state.items())
