"""Which known encoders meet conditions on their facts."""

from __future__ import annotations

from collections.abc import Callable

from transferscope.errors import InputError
from transferscope.knowledge._tables import MODALITIES, KnownEncoder, encoders_of

#: Licences that allow any use, commercial use included.
PERMISSIVE = frozenset(
    {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "openmdw-1.1"}
)


def select_encoders(
    modality: str,
    *,
    max_parameters: float | None = None,
    license: str | None = None,
    min_speed: float | None = None,
    max_dim: int | None = None,
    max_download: float | None = None,
    loadable: bool = False,
    bundled: bool = False,
) -> list[str]:
    """Known encoders that meet all conditions.

    Parameters
    ----------
    modality : {"image", "text"}
    max_parameters : float, optional
    license : str, optional
        ``"permissive"``, or the name of a licence such as ``"mit"``.
    min_speed : float, optional
        Images per second on an RTX 4090, in mixed precision.
    max_dim : int, optional
        Of the features.
    max_download : float, optional
        Megabytes of its files; where that is not known, four bytes a parameter.
    loadable : bool
        Only those that load by their name: no services.
    bundled : bool
        Those of this package, too, which are tiny.

    Returns
    -------
    list of str
        Names. An encoder of which a fact is not known does not meet a condition on it.

    Raises
    ------
    InputError
        If none meets them.

    Examples
    --------
    >>> "hf/facebook/dinov2-small" in select_encoders("image", max_parameters=30e6)
    True
    """
    if modality not in MODALITIES:
        raise InputError(f"modality must be one of {', '.join(MODALITIES)}; got {modality!r}.")
    conditions: dict[str, Callable[[KnownEncoder], bool]] = {}
    if max_parameters is not None:
        conditions[f"at most {max_parameters:,.0f} parameters"] = lambda one: (
            one.n_parameters is not None and one.n_parameters <= max_parameters
        )
    if license is not None:
        wanted = PERMISSIVE if license == "permissive" else {license.lower()}
        conditions[f"licence {license}"] = lambda one: one.license in wanted
    if min_speed is not None:
        conditions[f"at least {min_speed:g} images per second"] = lambda one: (
            one.gpu_speed is not None and one.gpu_speed >= min_speed
        )
    if max_dim is not None:
        conditions[f"at most {max_dim} dimensions"] = lambda one: (
            one.feature_dim is not None and one.feature_dim <= max_dim
        )
    if max_download is not None:
        conditions[f"at most {max_download:g} MB to download"] = lambda one: (
            (size := one.download_mb or 4e-6 * (one.n_parameters or 0)) > 0 and size <= max_download
        )
    usual = [
        one
        for one in encoders_of(modality)
        if (one.usual or (bundled and one.name.startswith("mini/")))
        and (one.loadable or not loadable)
    ]
    met = [one.name for one in usual if all(test(one) for test in conditions.values())]
    if not met:
        each = "; ".join(
            f"{what}: {sum(map(test, usual))} of {len(usual)}" for what, test in conditions.items()
        )
        raise InputError(
            f"no known {modality} encoder meets all conditions ({each}; what is not known of an "
            "encoder does not meet a condition). Loosen one."
        )
    return met
