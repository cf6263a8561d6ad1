"""Parquet files in DuckDB's SQL, each by its own name, whatever characters its path has."""

import re
from pathlib import Path
from typing import Literal

import duckdb

from skipwise.common.errors import UserError


def parquet(*files: Path, options: str = "") -> str:
    """SQL of a table: the rows of these files, one file after the other.

    DuckDB would otherwise take a path for a pattern, a relative one that begins with "~" for one of the home directory,
    and a folder named `track=a` for a column. `options`: more of `read_parquet`, each after a comma. Raises `UserError`
    for a path that DuckDB cannot be given.
    """
    return f"read_parquet([{', '.join(map(_literal, files))}], hive_partitioning = false{options})"


def csv(file: Path, nulls: tuple[str, ...]) -> str:
    """SQL of the rows of a text file whose first line names the columns; `nulls`: texts that mean a missing value."""
    texts = ", ".join("'" + text.replace("'", "''") + "'" for text in dict.fromkeys(("", *nulls)))
    return (
        f"read_csv({_literal(file)}, header = true, sample_size = -1, nullstr = [{texts}], hive_partitioning = false)"
    )


def write(rows: duckdb.DuckDBPyRelation, file: Path, compression: Literal["lz4_raw", "snappy"] = "snappy") -> None:
    """Writes the rows to `file`; DuckDB would take a relative path for a URL, or for one of the home directory."""
    rows.write_parquet(str(file.absolute()), compression=compression)


def write_apart(rows: duckdb.DuckDBPyRelation, folder: Path, column: str, group_rows: int) -> None:
    """Writes the rows of each value of a column to `folder/COLUMN=VALUE/*.parquet`, without that column."""
    rows.write_parquet(str(folder.absolute()), compression="lz4_raw", partition_by=[column], row_group_size=group_rows)


def quoted(column: str) -> str:
    """The SQL of a column of any name."""
    doubled = column.replace('"', '""')
    return f'"{doubled}"'


def _literal(file: Path) -> str:
    path = str(file.absolute())
    if any("\ud800" <= one <= "\udfff" for one in path):
        raise UserError(f"{file} is not UTF-8 in its path, which cannot be read: rename the folder")
    if "\\" in path and re.search(r"[\[*?]", path):
        # In a pattern DuckDB takes a backslash for a slash, and has no escape for it.
        raise UserError(f"{file} has a backslash and one of [ * ? in its path, which cannot be read: rename the folder")
    return "'" + re.sub(r"([\[*?])", r"[\1]", path.replace("'", "''")) + "'"
