"""Pages: what the HTML files that steelyard writes have in common; each is one file that loads nothing."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.errors import MissingExtra

if TYPE_CHECKING:
    from jinja2 import Environment

NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"


@cache
def environment(folder: Path) -> "Environment":
    """Return what renders the templates of a folder, which extend `page.html.jinja`.

    Raises:
        MissingExtra: Jinja is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise MissingExtra("jinja2", "evaluate") from None
    made = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,  # names of candidates, classes and files are the user's
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {"number": _number, "percent": _percent, "short": _shortened}
    return made


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "–"
    if unit == "fraction":
        return f"{value:.4f}"
    if unit == "count" or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", NARROW_SPACE)
    return f"{value:#.3g}".removesuffix(".") if unit else f"{value:.3g}"


def _percent(share: float, digits: int = 0) -> str:
    if 0 < share < 0.01 and not digits:
        return f"<{NARROW_SPACE}1{NARROW_SPACE}%"
    return f"{100 * share:.{digits}f}{NARROW_SPACE}%"


def _shortened(digest: str) -> str:
    return f"{digest[:12]}…" if len(digest) > 14 else digest
