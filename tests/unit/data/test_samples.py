import subprocess
import sys
from pathlib import Path

import pytest

from transferline.data import samples
from transferline.errors import UserError
from transferline.sections import Data


def test_the_textile_sample_is_laid_out_as_class_folders(tmp_path):
    (tmp_path / "out" / "old").mkdir(parents=True)
    data = Data(root=str(tmp_path / "out"))
    assert samples.fetch(data, tmp_path, tmp_path / "out") == 2000
    counts = {folder.name: len(list(folder.glob("*.jpg"))) for folder in (tmp_path / "out").iterdir()}
    assert counts == {"global": 500, "local": 500, "nominal": 1000}


def test_nothing_is_fetched_for_a_folder_of_the_users_own(tmp_path):
    (tmp_path / "mine").mkdir()
    assert samples.fetch(Data(root=str(tmp_path / "mine")), tmp_path, tmp_path / "out") == 0
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_folder_of_the_users_own_is_met_with_the_nearest(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="did you mean 'photos'"):
        samples.fetch(Data(root=str(tmp_path / "fotos")), tmp_path, tmp_path / "out")


def test_a_folder_and_a_data_set_at_once_are_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="one of them is too many"):
        samples.fetch(Data(root=str(tmp_path / "mine"), torchvision="CIFAR10"), tmp_path, tmp_path / "out")


def test_the_sample_is_fetched_without_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from transferline.data import samples; from transferline.sections import Data\n"
        "samples.fetch(Data(root=sys.argv[1]), Path(sys.argv[1]), Path(sys.argv[1]) / 'x')\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
    assert Path(tmp_path / "x").is_dir()
