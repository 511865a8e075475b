"""Names of files and folders that every file system takes."""

from __future__ import annotations

import hashlib
import re

_LONGEST = 150


def clean_file_name(name: str) -> str:
    """Make a file name of any text, such as the name of an encoder.

    One too long for a file name is cut, and ends in a digest of all of it.

    Examples
    --------
    >>> clean_file_name("timm/resnet50 (v2)")
    'timm_resnet50_v2'
    """
    clean = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_.")
    if 1 <= len(clean) <= _LONGEST:
        return clean
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{clean[:_LONGEST]}_{digest}".strip("_")
