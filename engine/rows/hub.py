"""Sources whose values come typed: Parquet files and datasets of the Hugging Face Hub.

Text is text already and is passed on untouched; numbers, dates and the like become a `Literal` of their exact value,
as a number in a JSON file does. `pyarrow` and `datasets` are imported here, when they are needed (datasets takes a
second). `datasets` reads nothing but Hub datasets, as it retypes the text of local CSV and JSON files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from engine import network
from engine.errors import InputError
from engine.rows.formats import Record, Refusal, excerpt
from engine.rows.jsonrows import Literal


def literal(value: Any) -> Any:
    """`value` with every number, date and time in it spelled out, all else (an image, bytes) as it is."""
    if isinstance(value, int | float | Decimal | date | time | timedelta) and not isinstance(value, bool):
        return Literal(value)
    if isinstance(value, Mapping):
        return {str(key): literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [literal(item) for item in value]
    return value


def read_parquet(path: Path, name: str) -> Iterator[Record]:
    """Rows of a Parquet file, a row group's batch in memory at a time; `where` is "file:row N".

    Raises:
        InputError: the file is not Parquet, is damaged, or has one column name twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if len(set(columns)) < len(columns):
                twice = next(c for c in columns if columns.count(c) > 1)
                raise InputError(f"the column {excerpt(twice)!r} stands twice", where=name, remedy="rename one of them")
            for batch in file.iter_batches(batch_size=256):
                for offset in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(f"{name}:row {number}", batch.slice(offset, 1))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot be read as Parquet: {excerpt(str(error), 200)}", where=name) from error


def _parquet_row(where: str, one: Any) -> Record:
    try:
        return where, literal(one.to_pylist()[0])
    except UnicodeDecodeError as error:
        return Refusal(where, f"not valid UTF-8: at offset {error.start} of a text", excerpt(bytes(error.object)))


def read_hub(
    name: str, subset: str | None, split: str | None, revision: str | None, streaming: bool
) -> Iterator[Record]:
    """Rows of a Hub dataset; `where` is "hub:NAME/SPLIT:row N". With `streaming`, only what is asked for is fetched.

    Raises:
        InputError: there is no such dataset, subset or split, it is gated, or the Hub cannot be reached.
    """
    where = f"hub:{name}" + (f"/{subset}" if subset else "")
    offline = network.settle()
    try:
        import datasets

        loaded = datasets.load_dataset(name, subset, split=split, revision=revision, streaming=streaming)
        if isinstance(loaded, dict):
            if len(loaded) != 1:
                raise InputError(
                    f"this dataset has {len(loaded)} splits: {', '.join(map(str, loaded))}",
                    where=where,
                    remedy="say which one with data.train_split or data.test_split",
                )
            split = str(next(iter(loaded)))
            loaded = loaded[split]
        for number, fields in enumerate(loaded, 1):
            yield f"{where}/{split}:row {number}", literal(fields)
    except InputError:
        raise
    except Exception as error:  # the library passes on whatever its network, archive and format layers raise
        problem, remedy = _explain(error, offline)
        raise InputError(problem, where=where, remedy=remedy) from error


def _explain(error: Exception, offline: str) -> tuple[str, str]:
    said = excerpt(" ".join(str(error).split()), 300)
    if offline and not isinstance(error, ValueError):  # a split or a subset is missed from files that are here
        remedy = "connect to the network once, or point data.train at a local file"
        return f"this dataset is not in the Hub's cache here, and the Hub is out of reach ({offline})", remedy
    if isinstance(error, ConnectionError | TimeoutError):
        return f"the Hub cannot be reached ({said})", "connect to the network, or point data.train at a local file"
    if "gated" in said:
        return said, "ask for access on the dataset's page, then log in with `hf auth login`"
    if isinstance(error, FileNotFoundError):
        return said, "check the name on huggingface.co/datasets; private datasets need `hf auth login`"
    if isinstance(error, ValueError):
        return said, "see data.subset, data.train_split, data.test_split and data.revision"
    return f"the dataset cannot be loaded: {type(error).__name__}: {said}", "try data.streaming = true, or a local copy"
