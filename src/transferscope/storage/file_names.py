"""Names of files and folders that every file system takes."""

from __future__ import annotations

import re


def clean_file_name(name: str) -> str:
    """Make a file name of any text, such as the name of an encoder.

    Examples
    --------
    >>> clean_file_name("timm/resnet50 (v2)")
    'timm_resnet50_v2'
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_.")
