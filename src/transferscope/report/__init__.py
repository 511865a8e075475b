"""A ranking as one HTML page that opens, sends and prints by itself; from results only.

Nothing of the page is fetched from anywhere, and its security policy lets nothing be. The only room
that imports Jinja2.
"""

from __future__ import annotations

from collections.abc import Mapping

from transferscope.errors import InputError, require
from transferscope.results import LayerDistances, Ranking, Relatedness

__all__ = ["report_html", "require_jinja"]


def require_jinja() -> None:
    """Refuse to write a report, before the work for it begins, where it could not be written.

    Raises
    ------
    MissingExtraError
        If Jinja2 is not installed.
    """
    require("jinja2", extra="report", purpose="write reports")


def report_html(
    ranking: Ranking,
    other: Ranking | None = None,
    *,
    names: tuple[str, str] = ("A", "B"),
    beside: Mapping[str, Relatedness | LayerDistances] | None = None,
) -> str:
    """Write a ranking, or two side by side, as one HTML page.

    It holds the recommendation, the table of all candidates, accuracy against cost, the intervals
    of all losses, the classes that are hard, samples where the ranking has some, what more samples
    bring, scores of layers, how far the metrics agree, what the results must be read with, what was
    run, and how to load the encoder and cite the metrics.

    Parameters
    ----------
    ranking : Ranking
    other : Ranking, optional
        Another to compare it with, such as of the same data after they were cleaned.
    names : (str, str)
        What the two are called where there are two.
    beside : mapping of str to Relatedness or LayerDistances, optional
        Other results that say why encoders transfer as they do, by what to call them.

    Returns
    -------
    str
        The text of the page; write it in UTF-8.

    Raises
    ------
    MissingExtraError
        If Jinja2 is not installed.
    InputError
        If one of the two is no ranking, both have one name, or another result is of a kind that
        a report does not show.

    Examples
    --------
    >>> from transferscope.results import DatasetSummary
    >>> data = DatasetSummary("birds", "all", "classification", 120, 4, 0, "c0ffee")
    >>> page = report_html(Ranking(data, "logme", (), "No encoder could be ranked."))
    >>> "<title>birds: no encoder could be ranked</title>" in page
    True
    """
    for one in (ranking, *([] if other is None else [other])):
        if not isinstance(one, Ranking):
            raise InputError(
                f"a report is made of rankings; got {type(one).__name__}. Pass what "
                "transferscope.rank returned, or Ranking.from_json(text)."
            )
    if other is not None and names[0] == names[1]:
        raise InputError(f"names must differ, got {names[0]!r} twice. Name each of the rankings.")
    for name, result in (beside or {}).items():
        if not isinstance(result, Relatedness | LayerDistances):
            raise InputError(
                f"beside a ranking a report shows Relatedness and LayerDistances; {name} is "
                f"{type(result).__name__}. Leave it out."
            )
    require_jinja()
    from transferscope.report._page import page

    return page([ranking] if other is None else [ranking, other], names, beside or {})
