"""Task-relatedness: an upper bound on the loss of a linear head on a target task, term by term.

Mehra, Zhang & Hamm, "Understanding the Transferability of Representations via Task-Relatedness",
NeurIPS 2024.
"""

from transferscope.relatedness._bound import MATCHES, SETTINGS, task_relatedness
from transferscope.relatedness._head import LinearHead
from transferscope.relatedness._pairs import compare_pairs

__all__ = ["MATCHES", "SETTINGS", "LinearHead", "compare_pairs", "task_relatedness"]
