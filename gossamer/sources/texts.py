"""Text documents from files (plain text, JSON lines, CSV, Parquet) and from packaged data sets.

Here lives reading and nothing else: names in, a list of distinct documents out, in an order that depends on
the names alone. Tokenizing, splitting into training and validation, and batching are the business of other
modules.
"""

import csv
import difflib
import glob
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from gossamer.sources.assets import locate

_ASSET_PREFIX: Final = "asset:"
_ASSET_SUFFIX: Final = ".csv.zst"
_FIELDS: Final = ("text", "prompt")
_LARGEST_CSV_FIELD: Final = 2**31 - 1  # what a C long holds everywhere
_UTF8_MARK: Final = b"\xef\xbb\xbf"


def read_documents(names: Sequence[str], *, min_characters: int = 1) -> list[str]:
    """Read the distinct documents of files, globs and packaged data sets, in order.

    Each name is one of

    - `asset:NAME`: a data set of sae-probes, such as `asset:100_news_fake`; `asset_names` lists them;
    - a path, or a glob (`corpus/**/*.txt`, sorted by name), to `.txt` (one document a file), `.jsonl`,
      `.csv`, `.csv.zst` or, where pyarrow is installed, `.parquet`; all but the first hold one document a
      row, in the field `text` or else `prompt`. A file of exactly this name comes before a glob.

    Files are UTF-8. Exact duplicates are dropped, the first stays. So are documents with fewer than
    `min_characters` characters, not counting white space at both ends.

    Raises `TypeError` for a single string, `ValueError` for content that cannot be read (with the file, and
    the line where there is one), for an unknown data set (with the nearest), for a name that matches no file,
    and when nothing is left; `MissingAsset` if the packaged data sets are not installed; `OSError` for a file
    that may not be opened.
    """
    if isinstance(names, str):
        raise TypeError(f"names must be a list of strings, got the string {names!r}: write [{names!r}]")
    if not names:
        raise ValueError("names is empty: give at least one file, glob or asset:NAME")
    if min_characters < 1:
        raise ValueError(f"min_characters must be at least 1, got {min_characters}")
    files = [path for name in names for path in _files(name)]
    readers = [_reader(path) for path in files]
    distinct: dict[str, None] = {}
    count = 0
    for path, read in zip(files, readers, strict=True):
        documents = read(path)
        count += len(documents)
        distinct.update((text, None) for text in documents if len(text.strip()) >= min_characters)
    if not distinct:
        raise ValueError(
            f"no document left: of the {count} documents in {len(files)} files, "
            f"none has {min_characters} characters or more"
        )
    return list(distinct)


def asset_names() -> list[str]:
    """List the packaged data sets that `read_documents` knows as `asset:NAME`, sorted by name.

    Raises `MissingAsset` if they are not installed.
    """
    return sorted(path.name.removesuffix(_ASSET_SUFFIX) for path in _asset_folder().glob(f"*{_ASSET_SUFFIX}"))


def _asset_folder() -> Path:
    return locate("sae_probes", "data/cleaned_data")


def _files(name: str) -> list[Path]:
    """Return the files that a name stands for, at least one."""
    if name.startswith(_ASSET_PREFIX):
        return [_asset_file(name.removeprefix(_ASSET_PREFIX))]
    path = Path(name).expanduser()
    if path.is_dir():
        raise ValueError(f"{name} is a folder: name the files in it, such as {name.rstrip('/')}/*.txt")
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        raise ValueError(f"there is no file {name}")
    found = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    files = [match for match in found if match.is_file()]
    if not files:
        raise ValueError(f"no file matches {name}")
    return files


def _asset_file(name: str) -> Path:
    known = asset_names()
    if name in known:
        return _asset_folder() / f"{name}{_ASSET_SUFFIX}"
    # People remember a part, such as `yelp`, and seldom the number in front.
    lower = {full.lower(): full for full in known}
    nearest = [full for spelling, full in lower.items() if name and name.lower() in spelling][:5]
    nearest = nearest or [lower[close] for close in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    hint = f"the nearest are {', '.join(nearest)}" if nearest else f"they run from {known[0]} to {known[-1]}"
    raise ValueError(f"there is no data set {_ASSET_PREFIX}{name} among the {len(known)}: {hint}")


def _reader(path: Path) -> Callable[[Path], list[str]]:
    for suffix, reader in _READERS.items():
        if path.name.lower().endswith(suffix):
            return reader
    raise ValueError(f"{path}: cannot read files of this kind, only {', '.join(_READERS)}")


def _read_txt(path: Path) -> list[str]:
    # Joined lines, not read_text, so that an undecodable byte is reported with its line, as elsewhere.
    return ["".join(_lines(path, path.read_bytes())).replace("\r\n", "\n")]


def _read_jsonl(path: Path) -> list[str]:
    documents = []
    for number, line in enumerate(_lines(path, path.read_bytes()), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not valid JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}")
        field = _field(row, f"{path}, line {number}")
        documents.append(_string(row[field], field, f"{path}, line {number}"))
    return documents


def _read_csv(path: Path) -> list[str]:
    return _parse_csv(path, path.read_bytes())


def _read_csv_zst(path: Path) -> list[str]:
    return _parse_csv(path, _decompress(path))


def _parse_csv(path: Path, data: bytes) -> list[str]:
    # The limit (131,072 characters) belongs to the process: lift it for this file only.
    limit = csv.field_size_limit(_LARGEST_CSV_FIELD)
    rows = csv.DictReader(_lines(path, data))
    try:
        if rows.fieldnames is None:
            return []
        field = _field(rows.fieldnames, f"{path}, line 1")
        return [_string(row[field], field, f"{path}, line {rows.line_num}") for row in rows]
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: not valid CSV ({error})") from error
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path) -> list[str]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(f"{path}: reading Parquet needs pyarrow: `pip install pyarrow`") from error
    try:
        names = parquet.read_schema(path).names
    except ValueError as error:
        raise ValueError(f"{path}: not a valid Parquet file ({error})") from error
    field = _field(names, str(path))
    values = parquet.read_table(path, columns=[field]).column(field).to_pylist()
    return [_string(value, field, f"{path}, row {number}") for number, value in enumerate(values, start=1)]


_READERS: Final[dict[str, Callable[[Path], list[str]]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".csv.zst": _read_csv_zst,
    ".parquet": _read_parquet,
}


def _field(present: Iterable[str], where: str) -> str:
    present = list(present)
    for field in _FIELDS:
        if field in present:
            return field
    found = ", ".join(present) or "none"
    raise ValueError(f"{where}: expected a field {' or '.join(_FIELDS)}, found {found}")


def _string(value: object, field: str, where: str) -> str:
    if not isinstance(value, str):
        given = "nothing" if value is None else repr(value)[:100]
        raise ValueError(f"{where}: the field {field} must hold text, got {given}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair; a tokenizer would stumble over it later, without the line.
        raise ValueError(f"{where}: the field {field} is not valid Unicode ({error.reason})") from error
    return value


def _lines(path: Path, data: bytes) -> Iterator[str]:
    """Decode line by line, with the line ends, so that an undecodable byte can be reported with its line."""
    for number, line in enumerate(data.removeprefix(_UTF8_MARK).splitlines(keepends=True), start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: not valid UTF-8 ({error.reason})") from error


def _decompress(path: Path) -> bytes:
    """Decompress every zstandard frame; refuse one that was cut off, which a stream reader would not."""
    try:
        import zstandard
    except ImportError as error:
        raise ValueError(f"{path}: reading .zst needs zstandard: `pip install zstandard`") from error
    rest, parts = path.read_bytes(), []
    while rest:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            parts.append(frame.decompress(rest))
        except zstandard.ZstdError as error:
            raise ValueError(f"{path}: not valid zstandard data ({error})") from error
        if not frame.eof:
            raise ValueError(f"{path}: the compressed data is cut off")
        rest = frame.unused_data
    return b"".join(parts)
