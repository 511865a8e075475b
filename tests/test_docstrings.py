"""Every public name explains itself in full: numpydoc's form, and the errors that it raises."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator

import pytest

import transferscope
from transferscope import errors

validate = pytest.importorskip("numpydoc.validate")

#: What numpydoc is asked for: that nothing is missing. Capitals, full stops, the order of sections
#: and whether a name needs more words than its type are left to the writer.
RULES = {
    "GL08": "there is no docstring",
    "SS01": "there is no summary",
    "PR01": "parameters are not documented",
    "PR02": "a parameter is documented that does not exist",
    "PR03": "parameters are in another order",
    "PR04": "a parameter has no type",
    "PR10": "a parameter is run together with its type",
    "RT01": "what is returned is not documented",
    "YD01": "what is yielded is not documented",
}
#: What serves the other rooms alone.
INTERNAL = (
    "transferscope.numerics",
    "transferscope.storage.atomic",
    "transferscope.storage.file_names",
    "transferscope.storage.safetensors_files",
)
#: Every module that is reached without an underscore, whatever room it belongs to.
MODULES = [
    "transferscope",
    *(
        module.name
        for module in pkgutil.walk_packages(transferscope.__path__, "transferscope.")
        if not any(part.startswith("_") for part in module.name.split("."))
        and not module.name.startswith("transferscope.cli")  # its help is its documentation
        and not module.name.startswith(INTERNAL)
    ),
]
OUR_ERRORS = {
    name
    for name, found in vars(errors).items()
    if inspect.isclass(found) and issubclass(found, errors.TransferscopeError)
}


def members(found: type) -> Iterator[tuple[str, object]]:
    """Public methods and properties of a class, inherited ones of our own classes included."""
    for name in dir(found):
        if name.startswith("_"):
            continue
        owner = next(base for base in found.__mro__ if name in vars(base))
        if owner.__module__.startswith("transferscope"):
            member = vars(owner)[name]
            member = getattr(member, "__func__", member)
            if callable(member) or isinstance(member, property) or hasattr(member, "func"):
                yield name, member


def public() -> dict[str, object]:
    """Importable name -> function, class, method or property, each object once."""
    found: dict[str, object] = {}
    seen: set[int] = set()
    for module_name in sorted(MODULES, key=lambda name: -name.count(".")):
        module = importlib.import_module(module_name)
        names = getattr(module, "__all__", None)
        if names is None:
            names = [
                name
                for name, value in vars(module).items()
                if not name.startswith("_") and getattr(value, "__module__", None) == module_name
            ]
        for name in names:
            value = getattr(module, name)
            documented = inspect.isclass(value) or inspect.isfunction(value)
            if not documented or id(value) in seen:
                continue
            seen.add(id(value))
            found[f"{module_name}.{name}"] = value
            if inspect.isclass(value):
                for member_name, member in members(value):
                    if id(member) not in seen:
                        seen.add(id(member))
                        found[f"{module_name}.{name}.{member_name}"] = member
    return found


PUBLIC = public()


def raised(function: object) -> set[str]:
    """Errors of ours that stand in a ``raise`` of the function's own body."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))  # type: ignore[arg-type]
    except (OSError, TypeError):
        return set()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            names.add(ast.unparse(node.exc.func).rpartition(".")[2])
    return names & OUR_ERRORS


def complaints(name: str, value: object) -> list[str]:
    """What is missing in a docstring."""
    is_attribute = isinstance(value, property) or hasattr(value, "func")
    result = validate.validate(name)
    # the fields of a record are documented as attributes, the parameters of an exception nowhere
    is_record = inspect.isclass(value) and (
        hasattr(value, "__dataclass_fields__")
        or hasattr(value, "_fields")  # a named tuple
        or issubclass(value, Exception | UserWarning)
    )
    is_protocol = inspect.isclass(value) and getattr(value, "_is_protocol", False)
    found = [
        f"{code} {message}"
        for code, message in result["errors"]
        if code in RULES
        and not (is_attribute and code != "GL08" and code != "SS01")
        and not ((is_record or is_protocol) and code.startswith("PR"))
    ]
    documented = inspect.getdoc(value) or ""
    if inspect.isfunction(value):
        missing = {error for error in raised(value) if not _raises(documented, error)}
        found += [f"raises {error}, which Raises does not name" for error in sorted(missing)]
    return found


def _raises(documented: str, error: str) -> bool:
    """Whether the section Raises names the error or one that it is a kind of."""
    section = documented.partition("\nRaises\n---")[2]
    kinds = [base.__name__ for base in getattr(errors, error).__mro__]
    return any(kind in section for kind in kinds[: kinds.index("TransferscopeError") + 1])


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_is_whole(name):
    assert not complaints(name, PUBLIC[name]), "; ".join(complaints(name, PUBLIC[name]))


def test_public_names_are_found():
    assert {"transferscope.metrics.logme", "transferscope.datasets.open_dataset"} <= set(PUBLIC)
    assert any(name.endswith("Ranking.to_frame") for name in PUBLIC)


def a_function(first: int, second: int) -> int:
    """Summary.

    Parameters
    ----------
    first : int
    third : int
        Not there.
    """
    if first > second:
        raise errors.InputError("no")
    return first


def test_the_check_sees_what_is_missing():
    name = f"{__name__}.a_function"
    found = " ".join(complaints(name, a_function))
    for expected in ("PR01", "PR02", "RT01", "raises InputError"):
        assert expected in found
