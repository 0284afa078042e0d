"""The search for the layers that must stay in float, on made losses."""

from collections.abc import Collection, Iterable
from typing import TypeVar

import pytest
from onnx import ModelProto, helper

from transferline.deploy.sensitivity import Search

T = TypeVar("T")
LAYERS = [f"layer{index}" for index in range(20)]
ORDER = [*LAYERS[10:], *LAYERS[:10]]  # most sensitive first


def silent(sequence: Iterable[T], description: str) -> Iterable[T]:
    return sequence


def made(floats: Collection[str]) -> ModelProto:
    """A model that says which layers are in float."""
    model = ModelProto()
    helper.set_model_props(model, dict.fromkeys(floats, ""))
    return model


def _floats(model: ModelProto) -> set[str]:
    return {entry.key for entry in model.metadata_props}


def few(model: ModelProto) -> tuple[float, float]:
    (alone,) = set(LAYERS) - _floats(model)
    return 0.0, 1.0 / (1 + ORDER.index(alone))


def search(needed: int, max_loss: float = 0.1) -> Search:
    """For a network that is good where the `needed` most sensitive layers are in float, the better the more are."""

    def judge(model: ModelProto) -> tuple[float, float]:
        right = len(_floats(model) & set(ORDER[:needed]))
        return (0.05 if right == needed else 0.5), 1.0 - right / 100

    return Search(made, LAYERS, judge, few, max_loss)


@pytest.mark.parametrize(
    ("needed", "counts"),
    [
        (0, [0]),
        (1, [0, 1]),
        (2, [0, 1, 2]),
        (3, [0, 1, 2, 4, 3]),
        (7, [0, 1, 2, 4, 8, 6, 7]),
        (13, [0, 1, 2, 4, 8, 16, 12, 14, 13]),
        (18, [0, 1, 2, 4, 8, 16]),
    ],
)
def test_the_set_doubles_until_it_is_enough_and_then_shrinks(needed: int, counts: list[int]) -> None:
    found = search(needed)
    best = found.run(20, silent)
    assert [candidate.count for candidate in found.tried] == counts
    assert best.count == (needed if needed < 18 else 16)
    assert found.floats(best) == [name for name in LAYERS if name in ORDER[: best.count]]


@pytest.mark.parametrize(("trials", "best"), [(1, 0), (4, 4), (5, 8), (6, 6), (7, 6)])
def test_no_more_candidates_are_tried_than_allowed(trials: int, best: int) -> None:
    found = search(6)
    assert found.run(trials, silent).count == best
    assert len(found.tried) == trials


def test_layers_are_ranked_only_where_int8_alone_is_not_enough() -> None:
    def never(model: ModelProto) -> tuple[float, float]:
        raise AssertionError("a pass over all layers is not needed")

    assert Search(made, LAYERS, lambda model: (0.0, 0.0), never, 0.1).run(8, silent).count == 0
    assert Search(made, LAYERS, lambda model: (1.0, 0.0), never, 0.1).run(1, silent).count == 0


def test_of_candidates_that_all_lose_too_much_the_one_with_the_smallest_error_is_best() -> None:
    found = search(19, max_loss=0.01)
    assert found.run(3, silent).count == 2
