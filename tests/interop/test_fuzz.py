"""Damaged files end in a ValueError that names them, or are read as what they say; never in anything else.

10,000 mutations of the files that other libraries and we wrote: bytes flipped, cut off, put in or doubled; values of
configurations and of safetensors headers exchanged for others; tensors swapped. Warnings are errors here.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gossamer as gs
from gossamer.interop.format import Loaded, format_of
from gossamer.interop.reading import Place, places

FIXTURES = Path(__file__).parent / "fixtures"
MUTATIONS = 10_000

NASTY: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    3,
    0.5,
    1e300,
    10**30,
    float("nan"),
    "",
    "x",
    "../../etc",
    [],
    {},
    [[]],
    {"a": 1},
]
DTYPES = ["F32", "F16", "BF16", "F64", "I64", "BOOL", "F8_E4M3", "C64", "x"]


def flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def flipped_at_the_start(data: bytes, chance: random.Random) -> bytes:
    return flipped(data[:400], chance) + data[400:]


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def filled(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + chance.randbytes(chance.randint(1, 64)) + data[place:]


def doubled(data: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(data)) for _ in range(2))
    return data[:end] + data[start:end] + data[end:]


def value_exchanged(data: bytes, chance: random.Random) -> bytes:
    """Exchange one value of a JSON file, renaming it at times."""
    values = table = json.loads(data)
    while True:
        name = chance.choice(sorted(table))
        if not isinstance(table[name], dict) or not table[name] or chance.random() < 0.2:
            break
        table = table[name]
    value = table.pop(name)
    kind = chance.randrange(3)
    if kind == 0:
        table[name + "_"] = value
    elif kind == 1:
        table[name] = chance.choice(NASTY)
    else:
        others = sorted(values, key=str)
        table[name] = json.loads(json.dumps(values[chance.choice(others)])) if others else None
    return json.dumps(values).encode()


def header_exchanged(data: bytes, chance: random.Random) -> bytes:
    """Exchange names, dtypes, shapes or places of a safetensors header, which stays well-formed."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    names = sorted(name for name in header if name != "__metadata__")
    one, other = chance.choice(names), chance.choice(names)
    kind = chance.randrange(6)
    if kind == 0:
        header[one], header[other] = header[other], header[one]
    elif kind == 1:
        header[one]["dtype"] = chance.choice(DTYPES)
    elif kind == 2:
        header[one]["shape"] = chance.choice(
            [header[one]["shape"][::-1], [], [2**40, 2**40], [-1], header[other]["shape"]]
        )
    elif kind == 3:
        header[one]["data_offsets"] = chance.choice([[0, 0], [0, 2**62], [5, 4], header[other]["data_offsets"]])
    elif kind == 4:
        header[chance.choice(["W", "../x", "W_enc", "threshold", "encoder.weight"])] = header.pop(one)
    else:
        header["__metadata__"] = chance.choice(
            [{"gossamer": "{}"}, {"gossamer": '{"spec": 1}'}, {"x": "y"}, {"a": 1}, 3]
        )
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


RAW = (flipped, flipped_at_the_start, cut, filled, doubled)
OF_SUFFIX: dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    ".json": (*RAW, value_exchanged, value_exchanged, value_exchanged, value_exchanged, value_exchanged),
    ".safetensors": (*RAW, flipped_at_the_start, flipped_at_the_start, *(header_exchanged,) * 6),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Place]:
    """Every fixture and, in the three formats that we write, one of ours, as copies that may be changed."""
    root = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(FIXTURES, root / "theirs")
    sae = gs.preset("topk", input_width=32, latents=64, l0=6).build(seed=0)
    for name in ("gossamer", "saelens", "sparsify"):
        format_of(name).write(sae, root / "ours" / name)
    found = [place for folder in sorted((root / "theirs").iterdir()) for place in places(folder).values()]
    return found + list(places(root / "ours").values())


def attempt(place: Place, about: str) -> Loaded | None:
    try:
        return place.read()
    except ValueError as error:
        if str(place.path) not in str(error):
            pytest.fail(f"{about} does not name the file: {error}")
        return None
    except Exception as error:
        pytest.fail(f"{about} ended in {type(error).__name__}: {error}")


@pytest.mark.parametrize("part", range(4))
def test_a_mutated_file_is_refused_by_name_or_read(originals: list[Place], part: int, tmp_path: Path):
    chance, row, read = random.Random(part), torch.ones(2, 32), 0
    for number in range(MUTATIONS // 4):
        place = originals[(number * 4 + part) % len(originals)]
        files = [path for path in ([place.path] if place.path.is_file() else place.path.iterdir()) if path.is_file()]
        victim = chance.choice(sorted(files))
        before = victim.read_bytes()
        mutate = chance.choice(OF_SUFFIX.get(victim.suffix, RAW))
        after = mutate(before, chance)
        victim.unlink()  # it may be mapped
        victim.write_bytes(after)
        loaded = attempt(place, f"{place.format.name} {victim.name}, {mutate.__name__}, number {number} of {part}")
        if loaded is not None:
            read += 1
            if number % 16 == 0:
                width = loaded.sae.spec.input_width
                assert loaded.sae.encode(row.repeat(1, 4)[:, :width]).rows == 2
            del loaded
        victim.unlink()
        victim.write_bytes(before)
        assert sorted(files) == sorted(path for path in victim.parent.iterdir() if path.is_file())
    assert MUTATIONS // 40 < read < MUTATIONS // 4 * 0.9  # both happen
    assert not list(tmp_path.iterdir())
