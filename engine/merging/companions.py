"""The files of a model folder beside its weights: which ones a merged model takes over, and from where.

Comes from: a base folder and an adapter folder. Goes to: the folder that `merge` writes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates",
)  # fmt: skip
OTHERS = ("generation_config.json", "preprocessor_config.json", "processor_config.json",
          "video_preprocessor_config.json", "LICENSE*", "NOTICE*")  # fmt: skip


def copy_companions(base: Path, adapter: Path, out: Path, *, code: bool) -> list[str]:
    """Copy tokenizer (the adapter's if it has one, whole, else the base's), generation settings and licences to `out`.

    Args:
        code: also copy the base's Python files, which its config refers to.

    Returns:
        sentences about what was not there.
    """
    found = copy_tokenizer(adapter, out) or copy_tokenizer(base, out)
    for pattern in (*OTHERS, *(("*.py",) if code else ())):
        for path in filter(Path.is_file, sorted(base.glob(pattern))):
            shutil.copyfile(path, out / path.name)
    return [] if found else ["Neither the adapter nor the base has a tokenizer; the merged model has none."]


def copy_tokenizer(folder: Path, out: Path) -> bool:
    """Copy the tokenizer of `folder` to `out`, its chat template included; False where it has none."""
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return False
    for name in TOKENIZER:
        if (folder / name).is_dir():
            shutil.copytree(folder / name, out / name)
        elif (folder / name).exists():
            shutil.copyfile(folder / name, out / name)
    return True
