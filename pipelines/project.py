"""A folder with params.yaml and evaluation_metrics.yaml: what `steelyard run` takes."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from steelyard.contract import Contract
from steelyard.data.sources.choose import open_source
from steelyard.data.splits import check_classes
from steelyard.errors import InvalidFile, SourceError
from steelyard.params import Params
from steelyard.store import is_remote
from steelyard.yaml_file import nearest

PARAMS_FILE = "params.yaml"
CONTRACT_FILE = "evaluation_metrics.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Both files, as text and parsed, and where the images lie."""

    folder: Path
    params_text: str
    contract_text: str
    params: Params
    contract: Contract
    source: str

    @classmethod
    def read(cls, folder: Path) -> "Project":
        """Read a folder; a relative `data.source` is taken from that folder.

        Raises:
            InvalidFile: a file is missing or wrong.
        """
        params_text = read_user_file(folder / PARAMS_FILE)
        contract_text = read_user_file(folder / CONTRACT_FILE)
        params = Params.from_yaml(params_text, str(folder / PARAMS_FILE))
        contract = Contract.from_yaml(contract_text, str(folder / CONTRACT_FILE))
        params.check_trainable(str(folder / PARAMS_FILE))
        contract.check_task(params.task, str(folder / CONTRACT_FILE))
        return cls(
            folder=folder,
            params_text=params_text,
            contract_text=contract_text,
            params=params,
            contract=contract,
            source=resolved(params.data.address, folder),
        )

    def check_images(self) -> None:
        """Look for the images and their classes, before work begins that needs both.

        Raises:
            InvalidFile: the images are missing or can't be split, or the contract names a class that there is not.
        """
        if is_remote(self.source):
            return
        try:
            items = open_source(self.params.data.at(self.source)).items()
            labels = Counter(item.label for item in items if not item.problem)
            classes = list(masks.classes) if (masks := self.params.data.masks) else check_classes(labels)
        except SourceError as error:
            raise InvalidFile(self.folder / PARAMS_FILE, str(error)) from None
        self.contract.check_classes(classes, str(self.folder / CONTRACT_FILE))


def check_architectures(params: Params, file: Path) -> None:
    """Look for the architectures of candidates in torchvision, which takes seconds to load.

    Raises:
        InvalidFile: one is not there.
    """
    named = {name: candidate.arch for name, candidate in params.candidates.items() if candidate.arch}
    if not named or params.task == "segmentation":
        return
    from steelyard.models.torchvision import known_architectures

    known = known_architectures()
    for name, arch in named.items():
        if arch not in known:
            raise InvalidFile(
                file, f"torchvision has no model {arch!r}{nearest(arch, known)}", f"candidates.{name}.arch"
            )


def resolved(address: str, folder: Path) -> str:
    """Return where images lie, a relative path taken from the folder of the file that names it."""
    return str((folder / Path(address).expanduser()).resolve()) if address and not is_remote(address) else address


def read_user_file(file: Path) -> str:
    """Return a user's text file.

    Raises:
        InvalidFile: it is missing, or not text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidFile(file, "there is no such file") from None
    except UnicodeDecodeError:
        raise InvalidFile(file, "is not UTF-8 text") from None
    except NotADirectoryError:
        raise InvalidFile(file.parent, "is a file; name the folder that it lies in") from None
    except OSError as error:
        raise InvalidFile(file, f"can't be read: {error.strerror}") from None
