"""What the sections of the comparison and of the range test refuse."""

from typing import Any

import pytest
from pydantic import ValidationError

from transferline.on_demand import Compare, LrFind


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (Compare, {"backbones": ["vgg16", "resnet18", "vgg16"]}, "'vgg16' is named twice; name it once"),
        (Compare, {"backbones": []}, "at least 1 item"),
        (Compare, {"weights": "mine.pth"}, "'pretrained' or 'none'"),
        (Compare, {"folds": 1}, "greater than or equal to 2"),
        (LrFind, {"min_lr": 0.1, "max_lr": 0.5}, "max_lr (0.5) is not even 10 times min_lr (0.1); 1e-6 to 1 is usual"),
        (LrFind, {"min_lr": 0.0}, "greater than 0"),
        (LrFind, {"max_lr": 11.0}, "less than or equal to 10"),
        (LrFind, {"diverged": 1.0}, "greater than 1"),
    ],
)
def test_what_makes_no_sense_is_refused(model: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    assert message in str(caught.value)


def test_names_are_given_as_a_list() -> None:
    assert Compare.model_validate({"backbones": ["vgg16", "resnet18"]}).backbones == ("vgg16", "resnet18")
