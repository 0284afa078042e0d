"""What the policy audit looks at, and that on the real sample it flags quarter turns and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conformal_clip_data import textile_simulated_root
from pydantic import TypeAdapter

from transferline import policy, sections
from transferline.artifacts import Arrays, ManifestRow, sha256
from transferline.data import arrays, clean, transforms
from transferline.evaluation import audit
from transferline.model import probing

POLICY = TypeAdapter(tuple[policy.Transform, ...]).validate_python(
    (
        {"name": "quarter_turns"},
        {"name": "horizontal_flip"},
        {"name": "vertical_flip"},
        {"name": "rotation", "degrees": [180, 180]},
    )
)


def test_each_transform_is_applied_to_every_image_whatever_its_probability(
    colour_arrays: Callable[..., Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    class Extract:
        def __init__(self, net: object, count: int) -> None:
            assert count == 18 + 2 * 6

        def __call__(self, images: np.ndarray, label: str) -> np.ndarray:
            seen.append(images)
            return images.reshape(len(images), -1)[:, :5].astype(np.float32)

    monkeypatch.setattr(probing, "Extractor", Extract)
    monkeypatch.setattr(probing, "PASSES", 30)
    given = replace(colour_arrays(18), groups=np.arange(18))
    before = given.images[:, 0].copy()

    def take(limit: int, splits: tuple[str, ...]) -> Arrays:
        assert splits == ("train", "val"), "the test split is never looked at"
        return given

    model = sections.Model(backbone="mobilenet_v3_small", weights="none")
    found = probing.look(take, model, 3, POLICY[:2])
    assert [len(images) for images in seen] == [18, 6, 6]
    assert len(set(found.rows.tolist())) == 6
    np.testing.assert_array_equal(seen[2], before[found.rows][:, :, ::-1])
    again = transforms.drawn(torch.from_numpy(before[found.rows]), POLICY[:1], [(3, row) for row in range(6)])
    np.testing.assert_array_equal(seen[1], again.numpy())
    np.testing.assert_array_equal(given.images[:, 0], before)
    np.testing.assert_array_equal(found.groups, np.arange(18))
    assert [one.transform.name for one in found.transformed] == ["quarter_turns", "horizontal_flip"]
    np.testing.assert_array_equal(found.transformed[1].example, before[found.rows[0], :, ::-1])


def test_on_the_real_sample_quarter_turns_are_flagged_and_neither_flips_nor_half_turns() -> None:
    root, rows = Path(textile_simulated_root()), []
    for label, count in (("global", 175), ("local", 175), ("nominal", 350)):
        for number, file in enumerate(sorted((root / label).glob("*.jpg"))[:count]):
            split = "val" if number % 7 < 3 else "train"
            rows.append(ManifestRow(f"{label}/{file.name}", label, split, sha256(file), "0" * 16, number, 250, 250))
    recipe = arrays.Recipe(224, "squash", 2, POLICY, seed=0)
    take = partial(clean.taken, rows, root, recipe, 0)
    found = audit.judge(probing.look(take, sections.Model(), 0, POLICY), seed=0)
    assert found.doubt is None
    assert [finding.name for finding in found.flagged] == ["quarter_turns"]
    assert found.accuracy > 0.68
    assert found.findings[0].lost > 2 * audit.SHARE
    assert all(finding.lost < audit.SHARE for finding in found.findings[1:])
