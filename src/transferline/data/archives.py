"""Data sets of others, unpacked and read so that none of their files can write elsewhere or run anything."""

import pickle
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import IO, Any

from torchvision.datasets import cifar, lsun

# What an array of numbers is pickled as; a file that names anything else is no data set.
_ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


@contextmanager
def guarded() -> Iterator[None]:
    """While it lasts, torchvision's data sets unpack and unpickle safely, whatever their archives hold.

    A tar archive with a member that would lie outside its folder, by its name or through a link, is refused (PEP 706);
    zipfile keeps names inside by itself. CIFAR and LSUN come as pickles: of these, only arrays of numbers are read.

    Raises:
        tarfile.FilterError: for such a member.
        pickle.UnpicklingError: for a pickle that names any other object.
    """
    modules: tuple[Any, ...] = (cifar, lsun)
    before = tarfile.TarFile.extraction_filter, [module.pickle for module in modules]
    # Python 3.11's own default follows every path; a static method, since tarfile asks the instance for it.
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    for module in modules:
        module.pickle = SimpleNamespace(load=_load, dump=pickle.dump)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before[0]
        for module, own in zip(modules, before[1], strict=True):
            module.pickle = own


class _Numbers(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array of numbers needs")
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def _load(stream: IO[bytes], *, encoding: str = "ASCII") -> Any:
    return _Numbers(stream, encoding=encoding).load()
