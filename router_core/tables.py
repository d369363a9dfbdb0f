"""Reading one file of records into named columns: Parquet, CSV or JSON lines.

Nothing here knows what a column means; `router_core.records` does. A cell is missing when it is null
(Parquet, JSON) or empty (CSV). NaN is a value, and a wrong one, wherever a number is expected.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from router_core.errors import InputError, MissingExtraError

__all__ = ["Table", "read_table"]

_NUMBERS = {int, float, bool, type(None)}


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one file.

    Parameters
    ----------
    source
        The file, as given.
    unit
        ``"row"`` (data rows counted from 1) or ``"line"``.
    numbers_of
        Row or line number of every record, shape [n].
    columns
        Per column a list of Python values, or for Parquet a pyarrow array.
    """

    source: str
    unit: str
    numbers_of: Sequence[int]
    columns: dict[str, Any]

    def place(self, i: int) -> str:
        """Where record `i` stands, as ``file: row 3``."""
        return f"{self.source}: {self.unit} {self.numbers_of[i]}"

    def texts(self, name: str) -> list[str | None]:
        """Return a column as text; numbers become their decimal form; anything else is an `InputError`."""
        column = self.columns[name]
        values = column if isinstance(column, list) else _arrow_texts(self.source, name, column)
        kinds = {type(value) for value in values}
        if not kinds <= {str, type(None)}:
            for i, value in enumerate(values):
                if isinstance(value, bool) or not isinstance(value, (str, int, float, type(None))):
                    raise InputError(f"{self.place(i)}: column {name!r} must be text, not {type(value).__name__}")
            values = [None if value is None else str(value) for value in values]
        try:
            "".join(value for value in values if value).encode()
        except UnicodeEncodeError:
            i = next(i for i, value in enumerate(values) if value and _unpaired(value))
            raise InputError(
                f"{self.place(i)}: column {name!r} holds half a character (an unpaired surrogate)"
            ) from None
        return values

    def numbers(self, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return a column as float64 values and the mask of missing cells, both of shape [n]."""
        column = self.columns[name]
        if not isinstance(column, list):
            return _arrow_numbers(self.source, name, column)
        if {type(value) for value in column} <= {str, type(None)}:
            column = [_parsed(value) for value in column]
        missing = np.array([value is None for value in column], dtype=bool)
        if {type(value) for value in column} <= _NUMBERS:
            try:
                return np.array([np.nan if value is None else value for value in column], dtype=np.float64), missing
            except OverflowError:
                pass
        for i, value in enumerate(column):
            if type(value) not in _NUMBERS or (isinstance(value, int) and abs(value) > 1e300):
                raise InputError(f"{self.place(i)}: column {name!r} must be a number, not {str(value)[:40]!r}")
        raise AssertionError("unreachable: some value above is not a number")


def read_table(path: str | Path) -> Table:
    """Read one file of records.

    Raises
    ------
    InputError
        If the file is absent, of an unknown kind or unreadable; for CSV and JSON lines it names the line.
    MissingExtraError
        For Parquet without pyarrow.
    """
    path = Path(path)
    name = path.name.lower()
    try:
        if name.endswith((".parquet", ".pq")):
            table = _read_parquet(path)
        elif name.endswith(".csv"):
            table = _read_csv(path)
        elif name.endswith((".jsonl", ".ndjson", ".jsonl.gz")):
            table = _read_jsonl(path)
        else:
            raise InputError(f"{path}: records are .parquet, .csv, .jsonl or .jsonl.gz files")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not len(table.numbers_of):
        raise InputError(f"{path}: holds no records")
    return table


def _read_parquet(path: Path) -> Table:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("fit", "read Parquet records") from None
    try:
        table = parquet.read_table(path, partitioning=None)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    names = table.column_names
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: column {name!r} occurs twice")
    return Table(str(path), "row", range(1, table.num_rows + 1), {name: table[name] for name in names})


def _read_csv(path: Path) -> Table:
    # The default limit of 128 KiB a field is shorter than the prompts people log.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, delimiter=_delimiter(path))
            try:
                header = next(reader, [])
                rows = [row for row in reader if row]
            except UnicodeDecodeError as error:
                raise InputError(f"{path}: line {_undecodable(path)} is not UTF-8 ({error.reason})") from None
            except csv.Error as error:
                raise InputError(f"{path}: line {reader.line_num} is not valid CSV ({error})") from None
    finally:
        csv.field_size_limit(limit)
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path}: column {name!r} occurs twice in the header")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise InputError(f"{path}: row {number} has {len(row)} fields, the header has {len(header)}")
    columns: list[Any] = [[cell or None for cell in column] for column in zip(*rows, strict=True)]
    return Table(
        str(path),
        "row",
        range(1, len(rows) + 1),
        dict(zip(header, columns or [[]] * len(header), strict=True)),
    )


def _undecodable(path: Path) -> int:
    """Number of the first line that is not UTF-8; the reader, which decodes ahead of itself, cannot tell."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def _delimiter(path: Path) -> str:
    """What separates the names of a header; spreadsheets of many countries write semicolons."""
    with path.open("rb") as file:
        return max(",;\t", key=file.readline().decode("utf-8", "replace").count)


def _read_jsonl(path: Path) -> Table:
    numbers, rows = [], []
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is not a JSON object")
        numbers.append(number)
        rows.append(row)
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    for number, row in zip(numbers, rows, strict=True):
        if "quality" in names and "quality" not in row:
            raise InputError(f"{path}: line {number}: column 'quality' is missing; write null for a missing answer")
    return Table(str(path), "line", numbers, {name: [row.get(name) for row in rows] for name in names})


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
        try:
            for number, raw in enumerate(file, start=1):
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: line {number} is not UTF-8 ({error.reason})") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path}: not a readable gzip file after line {number} ({error})") from None


def _arrow_texts(source: str, name: str, column: Any) -> list[str | None]:
    import pyarrow

    # Repeated prompts become one shared string instead of one for every model.
    try:
        encoded = column.cast(pyarrow.string()).combine_chunks().dictionary_encode()
    except (pyarrow.ArrowException, ValueError):
        raise InputError(f"{source}: column {name!r} must be text, not {column.type}") from None
    words: list[str | None] = encoded.dictionary.to_pylist()
    words.append(None)
    return [words[i] for i in encoded.indices.fill_null(len(words) - 1).to_pylist()]


def _arrow_numbers(source: str, name: str, column: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    import pyarrow

    kind = column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        raise InputError(f"{source}: column {name!r} must be numbers, not text")
    try:
        values = column.cast(pyarrow.float64(), safe=False)
    except (pyarrow.ArrowException, ValueError):
        raise InputError(f"{source}: column {name!r} must be numbers, not {kind}") from None
    missing = column.is_null(nan_is_null=False).to_numpy(zero_copy_only=False)
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64), np.asarray(missing, dtype=bool)


def _parsed(text: str | None) -> object:
    if text is None or not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _unpaired(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)
