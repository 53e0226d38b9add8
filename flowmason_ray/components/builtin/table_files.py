"""`table_read` and `table_write`: tables in the project's files.

Reading is declared idempotent, not pure: it may be repeated, but what it gives depends on the file and not only on the
config, so a cache must not answer for it blindly. Writing is idempotent: the same table gives the same file, put in place whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.table_errors import require_columns, table_errors
from flowmason_ray.components.extras import needs
from flowmason_ray.components.files import existing_file, file_errors, relative, resolve_inside, write_atomic
from flowmason_ray.components.frames import Frame
from flowmason_ray.components.table_texts import check_lines, check_unpacked
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError, nearest

with needs("The table components", extra="tables"):
    import polars as pl

Format = Literal["csv", "tsv", "parquet", "json", "ndjson", "arrow"]

_BY_EXTENSION: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".arrow": "arrow",
    ".feather": "arrow",
}

_DTYPES: dict[str, Any] = {
    "int": pl.Int64,
    "float": pl.Float64,
    "string": pl.String,
    "bool": pl.Boolean,
    "date": pl.Date,
    "datetime": pl.Datetime,
    "time": pl.Time,
    "categorical": pl.Categorical,
    **{f"int{n}": getattr(pl, f"Int{n}") for n in (8, 16, 32, 64)},
    **{f"uint{n}": getattr(pl, f"UInt{n}") for n in (8, 16, 32, 64)},
    **{f"float{n}": getattr(pl, f"Float{n}") for n in (32, 64)},
}


def _separates(separator: str) -> str:
    if not separator.isascii() or separator in '"\r\n':
        raise ValueError(f"a separator is one ASCII character, and no quote or line end; found {separator!r}")
    return separator


Separator = Annotated[str, AfterValidator(_separates)]


@operator(effect="idempotent", cost="io", category="tables")
class TableRead:
    """Reads a table from CSV, TSV, Parquet, JSON, NDJSON or Arrow files of the project."""

    class Input(BaseModel):
        """Which file, and how to read it."""

        model_config = ConfigDict(extra="forbid")

        path: str = Field(
            description="The file, relative to the project; with *, ? or ** several, read in the order of their names as one table."
        )
        format: Format | None = Field(default=None, description="The format; default: by the file's extension.")
        columns: list[str] | None = Field(default=None, description="The columns to read, in this order; default: all.")
        dtypes: dict[str, str] = Field(
            default={},
            description="{column: type} where the guessed type is wrong: int, float, string, bool, date, datetime, time, categorical, int8 … uint64, float32.",
        )
        separator: Separator | None = Field(
            default=None, min_length=1, max_length=1, description="CSV: default ',' (TSV: tab)."
        )
        has_header: bool = Field(
            default=True, description="CSV: whether the first row holds names; else column_0, column_1, …."
        )
        skip_rows: int = Field(default=0, ge=0, description="CSV: lines to skip before the header.")
        null_values: list[str] = Field(
            default=[], description="CSV: texts that mean null, such as 'NA'; an empty field always does."
        )
        parse_dates: bool = Field(default=True, description="CSV: whether columns that look like dates become dates.")
        infer_rows: int | None = Field(
            default=10_000, ge=1, description="CSV, JSON: how many rows are looked at to guess the types; null: all."
        )
        limit: int | None = Field(default=None, ge=0, description="The most rows to read; default: all.")

    class Output(BaseModel):
        """The table."""

        table: Frame = Field(description="The table.")
        rows: int = Field(description="How many rows it has.")
        columns: list[str] = Field(description="The names of its columns.")
        files: list[str] = Field(description="The files that were read, relative to the project.")

    def execute(self, input: Input, context: Context) -> Output:
        """Read the table.

        Raises:
            PermanentError: `file_not_found`, `unknown_format`, `unknown_column`, `unknown_dtype`, `table_error`.
        """
        files = _files(input.path, context)
        dtypes = {name: _dtype(name, wanted) for name, wanted in input.dtypes.items()}
        with file_errors(input.path):
            parts = [_scan(file, relative(context.project_dir, file), input, dtypes) for file in files]
        with table_errors(f"Reading {input.path!r}"):
            lazy = parts[0] if len(parts) == 1 else pl.concat(parts, how="vertical_relaxed")
            names = lazy.collect_schema().names()
            require_columns([*(input.columns or []), *dtypes], names, of=f"file {input.path!r}")
            if input.columns is not None:
                lazy = cast("pl.LazyFrame", cast("Any", lazy).select(input.columns))
            if input.limit is not None:
                lazy = lazy.head(input.limit)
            table = lazy.collect()
        return self.Output(
            table=table,
            rows=table.height,
            columns=table.columns,
            files=[relative(context.project_dir, f) for f in files],
        )


def _files(path: str, context: Context) -> Sequence[Path]:
    if not any(c in path for c in "*?["):
        return [existing_file(context.project_dir, path)]
    root = context.project_dir.resolve()
    if "\0" in path or any("**" in part and part != "**" for part in Path(path).parts):
        raise PermanentError(
            f"The pattern {path!r} cannot be one: '**' stands alone between slashes, as in 'data/**/*.csv'.",
            code="invalid_path",
        )
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise PermanentError(f"The pattern {path!r} must stay inside the project.", code="path_outside_project")
    found = [p.resolve() for p in sorted(root.glob(path)) if p.is_file() and p.resolve().is_relative_to(root)]
    if not found:
        raise PermanentError(f"No file of the project matches {path!r}.", code="file_not_found")
    return found


def _format(path: str, chosen: Format | None) -> Format:
    if chosen is not None:
        return chosen
    extension = Path(path).suffix.lower()
    if extension not in _BY_EXTENSION:
        raise PermanentError(
            f"The format of {path!r} cannot be told from its extension; give 'format' or use one of {', '.join(_BY_EXTENSION)}.",
            code="unknown_format",
        )
    return _BY_EXTENSION[extension]


def _dtype(column: str, name: str) -> Any:
    if name.lower() not in _DTYPES:
        near = nearest(name, _DTYPES)
        raise PermanentError(
            f"Unknown type {name!r} for column {column!r}; there are {', '.join(_DTYPES)}."
            + (f" Did you mean {near!r}?" if near else ""),
            code="unknown_dtype",
        )
    return _DTYPES[name.lower()]


def _scan(file: Path, name: str, input: TableRead.Input, dtypes: dict[str, Any]) -> pl.LazyFrame:
    kind = _format(name, input.format)
    if kind in ("csv", "tsv", "json", "ndjson"):
        check_unpacked(file, name)
    if kind in ("csv", "tsv"):
        check_lines(file, name)
    with table_errors(f"Reading {name!r}"):
        match kind:
            case "csv" | "tsv":
                return pl.scan_csv(
                    file,
                    separator=input.separator or ("\t" if kind == "tsv" else ","),
                    has_header=input.has_header,
                    skip_rows=input.skip_rows,
                    null_values=input.null_values or None,
                    try_parse_dates=input.parse_dates,
                    infer_schema_length=input.infer_rows,
                    schema_overrides=_known(file, input, kind, dtypes),
                    glob=False,
                )
            case "json":
                read = pl.read_json(file, infer_schema_length=input.infer_rows).lazy()
            case "ndjson":
                read = pl.scan_ndjson(file, infer_schema_length=input.infer_rows)
            case "parquet":
                read = pl.scan_parquet(file, glob=False)
            case "arrow":
                read = pl.scan_ipc(file, glob=False)
        present = read.collect_schema()
        typed = [_as(column, present[column], wanted) for column, wanted in dtypes.items() if column in present]
        return cast("Any", read).with_columns(typed)


def _as(column: str, found: Any, wanted: Any) -> pl.Expr:
    """Return the column as the wanted type; texts become dates and times as ISO 8601 writes them."""
    value = pl.col(column)
    if found == pl.String and wanted in (pl.Date, pl.Datetime, pl.Time):
        return value.str.strptime(wanted)
    if found == pl.String and wanted == pl.Boolean:
        return cast("Any", value.str.to_lowercase()).replace_strict(
            {"true": True, "false": False}, return_dtype=pl.Boolean
        )
    return value.cast(wanted)


def _known(file: Path, input: TableRead.Input, kind: str, dtypes: dict[str, Any]) -> dict[str, Any] | None:
    """Return the wanted types; a column that is not there is left to the check that names the nearest one."""
    if not dtypes or not input.has_header:
        return dtypes or None
    header = pl.read_csv(
        file,
        separator=input.separator or ("\t" if kind == "tsv" else ","),
        skip_rows=input.skip_rows,
        n_rows=0,
        infer_schema=False,
        glob=False,
    )
    return {c: t for c, t in dtypes.items() if c in header.columns}


@operator(effect="idempotent", cost="io", category="tables")
class TableWrite:
    """Writes a table to a CSV, TSV, Parquet, JSON, NDJSON or Arrow file of the project, whole or not at all."""

    class Input(BaseModel):
        """The table and the file."""

        model_config = ConfigDict(extra="forbid")

        table: Frame = Field(description="The table.")
        path: str = Field(description="The file, relative to the project; directories are made.")
        format: Format | None = Field(default=None, description="The format; default: by the file's extension.")
        separator: Separator | None = Field(
            default=None, min_length=1, max_length=1, description="CSV: default ',' (TSV: tab)."
        )

    class Output(BaseModel):
        """What was written."""

        path: str = Field(description="The file, relative to the project.")
        rows: int = Field(description="How many rows it holds.")
        size_bytes: int = Field(description="Its size.")

    def execute(self, input: Input, context: Context) -> Output:
        """Write the table.

        Raises:
            PermanentError: `path_outside_project`, `unknown_format`, `table_error` (nested columns in CSV), `file_error`.
        """
        file = resolve_inside(context.project_dir, input.path)
        kind = _format(input.path, input.format)
        table = input.table
        if kind in ("csv", "tsv"):
            nested = [n for n, t in table.schema.items() if t.is_nested()]
            if nested:
                raise PermanentError(
                    f"CSV cannot hold the nested columns {nested}; write Parquet, JSON or NDJSON, or take them apart with table_sql.",
                    code="table_error",
                )

        def write(temporary: Path) -> None:
            _write(table, temporary, kind, input.separator)

        with file_errors(input.path), table_errors(f"Writing {input.path!r}"):
            size = write_atomic(file, write)
        return self.Output(path=relative(context.project_dir, file), rows=table.height, size_bytes=size)


def _write(table: pl.DataFrame, file: Path, kind: Format, separator: str | None) -> None:
    writer = cast("Any", table)
    match kind:
        case "csv" | "tsv":
            writer.write_csv(file, separator=separator or ("\t" if kind == "tsv" else ","))
        case "parquet":
            writer.write_parquet(file)
        case "json":
            writer.write_json(file)
        case "ndjson":
            writer.write_ndjson(file)
        case "arrow":
            writer.write_ipc(file)
