"""A linear probe and its cross-validation: what it predicts, what it copes with, what it never sees."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from transferline.errors import UserError
from transferline.model import linear_probe as probe
from transferline.model.linear_probe import (
    PRIOR,
    PRIORS,
    WORST,
    cross_validate,
    fit_probe,
    fit_probes,
    grouped_folds,
    held_out,
    interval,
    log_losses,
)


def blobs(count: int = 120, classes: int = 3, spread: float = 1.0, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 around a centre for each class, and labels."""
    rng = np.random.default_rng(3)
    labels = np.arange(count, dtype=np.int64) % classes
    features = 3 * rng.normal(size=(classes, width))[labels] + spread * rng.normal(size=(count, width))
    return (features + 5).astype(np.float32), labels


def scaled(features: np.ndarray) -> np.ndarray:
    """Standardised, but by no less than the mean of all standard deviations."""
    return (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), features.std(axis=0).mean())


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_probe_is_a_logistic_regression_on_standardised_features(classes: int) -> None:
    features, labels = blobs(classes=classes, spread=3.0)
    (probe,) = fit_probes(features[:90], labels[:90], classes, priors=[PRIOR], tolerance=1e-7)
    known = scaled(features[:90].astype(np.float64))
    expected = (
        LogisticRegression(C=PRIOR / 12, max_iter=1000, tol=1e-7).fit(known, labels[:90]).predict_log_proba(known)
    )
    scores = probe.scores(features[:90])
    normalised = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(normalised, expected, atol=1e-3)
    np.testing.assert_array_equal(probe.predict(features[:90]), expected.argmax(axis=1))
    assert probe.predict(features).dtype == np.int64


def test_the_same_data_give_the_same_probe() -> None:
    features, labels = blobs()
    one, other = (fit_probe(features, labels, 3) for _ in range(2))
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.bias, other.bias)


def test_a_class_without_images_is_never_predicted() -> None:
    features, labels = blobs()
    kept = labels != 1
    probe = fit_probe(features[kept], labels[kept], 3)
    predicted = probe.predict(features)
    assert set(predicted) == {0, 2}
    np.testing.assert_array_equal(predicted[kept], labels[kept])


def test_of_a_single_class_that_one_is_predicted() -> None:
    features, _ = blobs()
    probe = fit_probe(features, np.full(120, 2, dtype=np.int64), 4)
    assert set(probe.predict(features)) == {2}


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_the_unit_of_the_features_does_not_matter(factor: float) -> None:
    features, labels = blobs(spread=4.0)
    scores = fit_probe(features, labels, 3).scores(features)
    np.testing.assert_allclose(fit_probe(factor * features, labels, 3).scores(factor * features), scores, 0.01)


def test_neither_faint_noise_nor_one_loud_feature_drowns_the_others() -> None:
    """Backbones give hundreds of features that hardly vary, and transformers a few that dwarf the rest."""
    features, labels = blobs(90, spread=2.0)
    rng = np.random.default_rng(0)
    noisy = np.concatenate([features, 1e-3 * rng.normal(size=(90, 500)), 50 * rng.normal(size=(90, 1))], axis=1)
    held = np.arange(90)
    alone = cross_validate(features, labels, held, folds=5, seed=0).accuracy
    assert np.mean(cross_validate(noisy, labels, held, folds=5, seed=0).accuracy) > np.mean(alone) - 0.05


def test_features_that_never_change_tell_nothing_and_do_no_harm() -> None:
    features, labels = blobs()
    features[:, 4] = 0.1
    probe = fit_probe(features, labels, 3)
    np.testing.assert_allclose(probe.weights[4], 0, atol=1e-5)
    assert set(fit_probe(np.ones((6, 3)), np.array([0, 1, 1, 1, 1, 1]), 2).predict(np.ones((6, 3)))) == {1}
    np.testing.assert_array_equal(probe.predict(features), labels)


def test_one_that_does_not_converge_does_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "ITERATIONS", 1)
    features, labels = blobs()
    assert (fit_probe(features, labels, 3).predict(features) == labels).mean() > 0.5


def test_many_labels_are_as_many_probes() -> None:
    features, single = blobs(spread=2.0)
    labels = np.stack([single == 0, single != 1, single == 2, single >= 0], axis=1).astype(np.int64)
    predicted = fit_probe(features, labels, 4).predict(features)
    one_each = OneVsRestClassifier(LogisticRegression(C=PRIOR / 12, max_iter=1000))
    expected = one_each.fit(scaled(features.astype(np.float64)), labels[:, :3]).predict(
        scaled(features.astype(np.float64))
    )
    np.testing.assert_array_equal(predicted[:, :3], expected)
    assert predicted[:, 3].all()  # every image that it was fitted on has that label
    assert predicted.dtype == np.int64


def test_cross_validation_scores_images_that_were_not_fitted_on() -> None:
    features, labels = blobs(200, spread=1.0)
    scores = cross_validate(features, labels, np.arange(200), folds=5, seed=0)
    assert len(scores.accuracy) == len(scores.macro_f1) == 5
    assert min(scores.accuracy) > 0.9
    noise = np.random.default_rng(0).normal(size=features.shape)
    by_chance = cross_validate(noise, labels, np.arange(200), folds=5, seed=0)
    assert 0.2 < np.mean(by_chance.accuracy) < 0.5
    assert scores == cross_validate(features, labels, np.arange(200), folds=5, seed=0)


def test_copies_of_an_image_never_lie_on_both_sides() -> None:
    """Noise with random labels, each image five times: only who has seen a copy could know its label."""
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(60, 80)).repeat(5, axis=0), rng.integers(0, 2, 60).repeat(5)
    honest = cross_validate(features, labels, np.arange(60).repeat(5), folds=4, seed=0)
    cheated = cross_validate(features, labels, np.arange(300), folds=4, seed=0)
    assert np.mean(honest.accuracy) < 0.65
    assert np.mean(cheated.accuracy) > 0.9


def test_a_class_in_fewer_groups_than_folds_is_coped_with() -> None:
    features, labels = blobs(60)
    labels[labels == 2] = 0
    labels[:2] = 2
    groups = np.arange(60)
    groups[1] = 0
    scores = cross_validate(features, labels, groups, folds=5, seed=0)
    assert len(scores.accuracy) == 5
    assert 0 < min(scores.macro_f1) <= max(scores.macro_f1) <= 1


def test_fewer_groups_than_folds_are_as_many_folds() -> None:
    features, labels = blobs(30)
    assert len(cross_validate(features, labels, np.arange(30) // 10, folds=5, seed=0).accuracy) == 3


def test_many_labels_are_cross_validated() -> None:
    features, single = blobs(90, spread=0.5)
    labels = np.stack([single == 0, single != 1], axis=1).astype(np.int64)
    scores = cross_validate(features, labels, np.arange(90), folds=3, seed=0)
    assert len(scores.accuracy) == 3
    assert min(scores.accuracy + scores.macro_f1) > 0.9


@pytest.mark.parametrize(("labels", "groups"), [([0, 1, 0, 1], [7, 7, 7, 7]), ([1, 1, 1, 1], [0, 1, 2, 3])])
def test_what_cannot_be_cross_validated_is_refused(labels: list[int], groups: list[int]) -> None:
    with pytest.raises(UserError, match="4 images of one group or one class"):
        cross_validate(np.eye(4), np.array(labels), np.array(groups), folds=2, seed=0)


def test_the_interval_allows_for_folds_that_share_what_they_are_fitted_on() -> None:
    mean, low, high = interval([0.70, 0.74, 0.72, 0.76, 0.78])
    # sd 0.031623, Student's t with 4 degrees of freedom 2.776445, 1/5 + 1/4
    assert mean == pytest.approx(0.74)
    assert high - mean == mean - low == pytest.approx(2.776445 * 0.0316228 * 0.45**0.5)
    assert interval([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0)
    assert interval([0.9, 1.0, 1.0])[2] == 1.0
    assert interval([0.5]) == (0.5, 0.0, 1.0)


def test_of_one_scale_the_features_keep_their_proportions_and_a_smaller_prior_is_a_flatter_probe() -> None:
    features, labels = blobs()
    wide, flat = (fit_probe(features, labels, 3, prior=prior, one_scale=True) for prior in (10.0, 0.01))
    assert len(set(wide.scale)) == 1
    assert wide.scale[0] == pytest.approx(np.sqrt(features.var(axis=0, dtype=np.float64).mean()))
    assert np.abs(flat.weights).max() < np.abs(wide.weights).max()


# --- more numbers than images ---------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_fewer_images_than_numbers_give_the_fit_that_scikit_learn_gives_without_a_rotation(classes: int) -> None:
    features, labels = blobs(40, classes, spread=3.0, width=150)
    (found,) = fit_probes(features, labels, classes, priors=[PRIOR], tolerance=1e-8)
    known = scaled(features.astype(np.float64))
    solver = LogisticRegression(C=PRIOR / 150, max_iter=10_000, tol=1e-8).fit(known, labels)
    others = 3.0 * np.random.default_rng(5).normal(size=(20, 150)) + 5
    given = (others - features.mean(axis=0)) / np.maximum(features.std(axis=0), features.std(axis=0).mean())
    np.testing.assert_allclose(log_softmax(found.scores(others), axis=1), solver.predict_log_proba(given), atol=2e-3)
    expected = solver.coef_ if classes > 2 else np.vstack([-solver.coef_, solver.coef_]) / 2
    np.testing.assert_allclose(found.weights.T, expected, atol=1e-3)


def test_images_that_are_copies_of_one_another_span_less_and_are_fitted_all_the_same() -> None:
    features, labels = blobs(20, 2, spread=3.0, width=100)
    once, twice = features.repeat(2, axis=0), labels.repeat(2)
    found = fit_probe(once, twice, 2)
    assert np.isfinite(found.weights).all()
    np.testing.assert_array_equal(found.predict(once), twice)


def test_the_order_of_priors_does_not_change_what_each_gives() -> None:
    features, labels = blobs(spread=4.0)
    together = fit_probes(features, labels, 3, priors=PRIORS, tolerance=1e-7)
    for prior, found in zip(PRIORS, together, strict=True):
        (alone,) = fit_probes(features, labels, 3, priors=[prior], tolerance=1e-7)
        np.testing.assert_allclose(found.scores(features), alone.scores(features), atol=2e-2, err_msg=f"{prior}")


# --- held out -------------------------------------------------------------------------------


@pytest.mark.parametrize(("spread", "strict"), [(30.0, True), (1.5, False)])
def test_of_the_priors_the_one_that_predicts_best_is_taken(spread: float, strict: bool) -> None:
    features, labels = blobs(spread=spread)
    priors, folds = (0.1, 10.0, 1000.0), grouped_folds(labels, np.arange(120), 4, 0)
    alone = {prior: held_out(features, labels, 3, folds, priors=[prior]).loss for prior in priors}
    found = held_out(features, labels, 3, folds, priors=priors)
    assert found.prior == min(alone, key=alone.__getitem__)
    assert (found.prior == 0.1) == strict
    assert found.loss == pytest.approx(alone[found.prior], rel=0.1)  # its solver started elsewhere
    assert found.losses.shape == found.right.shape == (120,)


def test_no_image_is_judged_by_a_probe_that_was_fitted_on_one_of_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first number of an image is that of its group."""
    features, labels = blobs(60)
    groups = np.random.default_rng(2).integers(0, 15, 60)
    features[:, 0] = groups
    fits: list[set[int]] = []
    judged: list[int] = []

    class Spy:
        def __init__(self, fitted: set[int]) -> None:
            self.fitted = fitted

        def scores(self, given: np.ndarray) -> np.ndarray:
            held = set(given[:, 0].astype(int).tolist())
            assert self.fitted
            assert not held & self.fitted
            judged.extend(given[:, 0].astype(int).tolist())
            return np.zeros((len(given), 3))

    def spying(given: np.ndarray, *_: object, priors: list[float], **__: object) -> list[Spy]:
        fits.append(set(given[:, 0].astype(int).tolist()))
        return [Spy(fits[-1]) for _ in priors]

    monkeypatch.setattr(probe, "fit_probes", spying)
    found = held_out(features, labels, 3, grouped_folds(labels, groups, 4, 0), priors=[1.0])
    assert len(fits) == 4
    assert sorted(judged) == sorted(groups.tolist()), "every image is judged, once"
    np.testing.assert_allclose(found.losses, np.log(3))


def test_held_out_noise_is_predicted_by_chance_whoever_has_copies() -> None:
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(60, 80)).repeat(5, axis=0), rng.integers(0, 2, 60).repeat(5)
    honest = held_out(features, labels, 2, grouped_folds(labels, np.arange(60).repeat(5), 4, 0))
    cheated = held_out(features, labels, 2, grouped_folds(labels, np.arange(300), 4, 0))
    assert honest.right.mean() < 0.65
    assert cheated.right.mean() > 0.9
    assert honest.loss > 2 * cheated.loss


# --- log losses -----------------------------------------------------------------------------


def test_the_log_loss_of_an_image_is_the_negative_logarithm_of_its_classs_probability() -> None:
    scores = np.array([[0.0, 0.0], [np.log(3), 0.0], [0.0, 500.0], [0.0, -np.inf]])
    losses, right = log_losses(scores, np.array([1, 0, 0, 0]))
    np.testing.assert_allclose(losses, [np.log(2), np.log(4 / 3), WORST, 0.0], atol=1e-12)
    np.testing.assert_array_equal(right, [0, 1, 0, 1])
    shifted, _ = log_losses(scores + 7.0, np.array([1, 0, 0, 0]))
    np.testing.assert_allclose(shifted, losses)
    assert log_losses(np.array([[0.0, -np.inf]]), np.array([1]))[0] == [WORST]


def test_of_several_labels_loss_and_right_answers_are_means_over_the_classes() -> None:
    scores = np.array([[0.0, np.log(3)], [np.inf, -np.inf], [np.inf, -np.inf]])
    losses, right = log_losses(scores, np.array([[1, 1], [1, 0], [0, 0]]))
    np.testing.assert_allclose(losses, [(np.log(2) + np.log(4 / 3)) / 2, 0.0, WORST / 2], atol=1e-8)
    np.testing.assert_array_equal(right, [0.5, 1.0, 0.5])
