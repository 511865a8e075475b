"""What was asked of a source, and what of it the source cannot give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from transferscope.errors import DatasetError
from transferscope.numerics.targets import TaskType

#: What a caller may ask for: the tasks, and the two readings of one tag per word.
RequestedTask: TypeAlias = Literal["classification", "regression", "multilabel", "tags", "entities"]


@dataclass(frozen=True)
class Request:
    """What the caller of `open_dataset` asked of a source; the same for all readers."""

    split: str | None = None
    label_column: str | None = None
    input_column: str | None = None
    task: RequestedTask | None = None
    skip_unreadable: bool = False
    #: Column names apply where the source has such columns, and labels may be absent.
    reference: bool = False

    def of_columns(self, columns: Iterable[str]) -> Request:
        """The same request; for a reference, without names of columns that it does not have."""
        if not self.reference:
            return self
        present = set(columns)

        def kept(named: str | None) -> str | None:
            parts = {part.strip() for part in (named or "").split(",")}
            return named if named in present or parts <= present else None

        return replace(
            self, label_column=kept(self.label_column), input_column=kept(self.input_column)
        )

    def refuse_columns(self, what: str) -> None:
        """Refuse names of columns for a source that has none.

        Raises
        ------
        DatasetError
            If one is given, and the source is not a reference.
        """
        request = self.of_columns(())
        given = [
            f"{name}={value!r}"
            for name, value in (
                ("label_column", request.label_column),
                ("input_column", request.input_column),
            )
            if value is not None
        ]
        if given:
            raise DatasetError(
                f"{' and '.join(given)} cannot apply to {what}, which has no columns: they can be "
                "chosen of tables and Hugging Face data sets only. Leave label_column and "
                "input_column out."
            )

    def refuse_other_task(self, what: str, task: TaskType | None) -> None:
        """Refuse a task that is not the one of a source whose task is fixed.

        Raises
        ------
        DatasetError
            If another one is asked for.
        """
        if self.task not in (None, task):
            raise DatasetError(
                f"the task of {what} is {task}; got task={self.task!r}. Leave it out."
            )
