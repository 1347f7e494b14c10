"""`steelyard contract check`: a contract in words, held against the images where they are known."""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from pipelines.project import PARAMS_FILE, Project, read_user_file, resolved
from steelyard.contract import Contract
from steelyard.data.dataset import DatasetIndex, Split
from steelyard.data.sources.choose import open_source
from steelyard.data.splits import check_classes
from steelyard.errors import InvalidFile, SourceError
from steelyard.params import Params
from steelyard.selection.explanation import explain, unprovable
from steelyard.store import is_remote

JUDGED: tuple[Split, ...] = ("validation", "test")
UNCHECKED = "Whether the images are enough was not looked at: there are too many of them, and of classes."


def words(file: Path, params: Path | None, dataset: Path | None) -> Iterator[str]:
    """Yield the explanation, then line by line what the images allow.

    Args:
        file: of the contract.
        params: whose task and images it is checked against; of images, how many there will be is estimated.
        dataset: a prepared one, in place of params.

    Raises:
        InvalidFile: a file is wrong, or the contract names what the images do not have, or no model could be shown to
            meet it on the dataset's validation split.
        ArtifactError: there is no such dataset.
    """
    contract = Contract.from_yaml(read_user_file(file), str(file))
    if dataset is not None:
        index = DatasetIndex.read(dataset / "dataset.json")
        _check(contract, index.task, index.classes, file)
        yield explain(contract)
        yield from _over_dataset(contract, index, file)
    elif params is not None:
        settings = Params.from_yaml(read_user_file(params), str(params))
        contract.check_task(settings.task, str(file))
        counts = _counts(settings, params)
        if masks := settings.data.masks:
            _check(contract, settings.task, list(masks.classes), file)
        elif counts:
            _check(contract, settings.task, sorted(counts["validation"]), file)
        yield explain(contract)
        yield from _over_estimates(contract, settings.task, counts)
    else:
        yield explain(contract)


def doubts(project: Project) -> Iterator[str]:
    """Yield a sentence for each limit that no candidate can be shown to meet, as far as the images are at hand."""
    counts = _counts(project.params, project.folder / PARAMS_FILE).get("validation", Counter())
    if project.params.task == "classification" and counts:
        found = unprovable(project.contract, project.params.task, sorted(counts), counts, counts.total())
        for name, problem in (found or {}).items():
            yield f"warning: {name} {problem}: nobody will be eligible"


def _check(contract: Contract, task: str, classes: tuple[str, ...] | list[str], file: Path) -> None:
    contract.check_task(task, str(file))
    contract.check_classes(classes, str(file))


def _over_dataset(contract: Contract, index: DatasetIndex, file: Path) -> Iterator[str]:
    problems = {
        split: unprovable(contract, index.task, index.classes, index.counts.get(split, {}), index.images[split])
        for split in JUDGED
    }
    yield ""
    if problems["validation"] is None or problems["test"] is None:
        yield UNCHECKED
        return
    for name, problem in problems["test"].items():
        yield f"On the test split this can't be confirmed: {name} {problem}."
    for name, problem in problems["validation"].items():
        raise InvalidFile(file, f"{problem} (validation split)", f"metrics.{name}.must")
    yield f"The {index.images['validation']:,} validation images are enough for every limit."


def _over_estimates(contract: Contract, task: str, counts: dict[Split, Counter[str]]) -> Iterator[str]:
    if task != "classification" or not counts:
        return
    yield ""
    for split in JUDGED:
        images = counts[split].total()
        told = unprovable(contract, task, sorted(counts[split]), counts[split], images)
        if told is None:
            yield UNCHECKED
            return
        yield f"There will be about {images:,} {split} images: {'too few for a limit' if told else 'enough'}."
        for name, problem in told.items():
            yield f"  {name} {problem}"


def _counts(params: Params, file: Path) -> dict[Split, Counter[str]]:
    """Return about how many images of each class the splits will have; nothing where they are not on this machine."""
    address = resolved(params.data.address, file.parent)
    if is_remote(address):
        return {}
    try:
        items = open_source(params.data.at(address)).items()
        found = Counter((item.split, item.label) for item in items if not item.problem)
        masks, given = params.data.masks, {split for split, _ in found}
        classes = list(masks.classes) if masks else check_classes(_labels(found, given))
    except SourceError as error:
        raise InvalidFile(file, str(error)) from None
    learnt_from = _labels(found, ("", "train"))
    counts: dict[Split, Counter[str]] = {}
    for split in JUDGED:
        share = getattr(params.data.split, split)
        dealt = {label: round(share * number) for label, number in learnt_from.items()}
        counts[split] = _labels(found, (split,)) if split in given else Counter(dict.fromkeys(classes, 0) | dealt)
    return counts


def _labels(found: Counter[tuple[str, str]], splits: Collection[str]) -> Counter[str]:
    """Return how many images of some splits have each label."""
    counts = Counter[str]()
    for (split, label), number in found.items():
        counts[label] += number if split in splits else 0
    return +counts
