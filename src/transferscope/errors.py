"""Every exception and warning that transferscope raises on purpose.

::

    TransferscopeError(Exception)
    ├── InputError(ValueError)         the caller handed in something that cannot be used
    │   ├── DatasetError               a data set cannot be read, or is not one
    │   ├── EncoderError               an encoder cannot be built or loaded
    │   │   └── CheckpointError        a weights file is damaged, unsafe, or of another architecture
    │   ├── UnknownNameError           no metric, encoder or layer has this name
    │   └── MissingInputError          a metric needs an input that was not given
    │       └── SkippedMetricError     a score was asked for that could not be computed
    ├── FeatureError(ValueError)       an encoder's features are NaN, infinite or constant
    ├── StoreError(OSError)            the feature store cannot be written or read
    ├── WorkerError(RuntimeError)      workers cannot be had, or die again and again
    ├── BoundError(ArithmeticError)    a bound came out below what it bounds
    └── MissingExtraError(ImportError) an optional dependency is not installed

    TransferscopeWarning(UserWarning)
    └── StoreWarning                   a damaged piece of the store is computed again

Every message says what rule was broken, which value broke it, and what to do next.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType


class TransferscopeError(Exception):
    """Base of all errors raised on purpose; catch it to catch them all."""


class InputError(TransferscopeError, ValueError):
    """Raised when an argument, a file or an option cannot be used as it is."""


class DatasetError(InputError):
    """Raised when a data set cannot be found, read, or used for a ranking."""


class EncoderError(InputError):
    """Raised when an encoder cannot be built, loaded or run."""


class CheckpointError(EncoderError):
    """Raised when a weights file is damaged, would execute code, or belongs to another network."""


class UnknownNameError(InputError):
    """Raised when a metric, encoder, layer or data set of this name does not exist."""


class MissingInputError(InputError):
    """Raised when a metric needs an input (say, source probabilities) that was not given."""


class SkippedMetricError(MissingInputError, KeyError):
    """Raised when a score is asked of a table that has none, with the reason."""

    def __str__(self) -> str:
        """The message as it is: `KeyError` would put it in quotes."""
        return Exception.__str__(self)


class FeatureError(TransferscopeError, ValueError):
    """Raised when an encoder's features cannot be scored: NaN, infinite, or all the same."""


class StoreError(TransferscopeError, OSError):
    """Raised when the feature store cannot be written or read (disk full, no permission)."""


class WorkerError(TransferscopeError, RuntimeError):
    """Raised when the workers of a cluster cannot be had, or die again and again."""


class BoundError(TransferscopeError, ArithmeticError):
    """Raised when a bound is below the loss that it must bound: an error, never a result."""


class MissingExtraError(TransferscopeError, ImportError):
    """Raised when an optional dependency is needed and not installed."""


class TransferscopeWarning(UserWarning):
    """Base of all warnings issued on purpose."""


class StoreWarning(TransferscopeWarning):
    """Issued when a damaged piece of the feature store is found and computed again."""


def first_few(names: Iterable[object]) -> str:
    """The first five names, with commas between, and how many more there are.

    Parameters
    ----------
    names : iterable of object

    Returns
    -------
    str
    """
    listed = [str(name) for name in names]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or say which pip line installs it.

    Parameters
    ----------
    module : str
        Name of the module, such as ``"timm"``.
    extra : str
        The extra of this package that brings it, such as ``"vision"``.
    purpose : str
        What the module is needed for, to complete "... is needed to <purpose>".

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    MissingExtraError
        If it is not installed, or installed but broken (the cause is chained and named).
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        # RuntimeError too: a torchvision built for another torch fails with one at import
        broken = not isinstance(error, ModuleNotFoundError)
        state = f"is installed but cannot be imported ({error})" if broken else "is not installed"
        raise MissingExtraError(
            f"{module} is needed to {purpose}, and {state}. "
            f"Install it with: pip install 'transferscope[{extra}]'"
        ) from error
