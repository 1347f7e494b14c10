"""steelyard: weighs image models against what each client needs."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("steelyard")
except PackageNotFoundError:  # the source alone lies on PYTHONPATH, as in the images
    __version__ = "0+source"
