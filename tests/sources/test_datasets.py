"""A data set is there whole, checked, or not at all; and what is missing says how to fetch it."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gossamer.sources import datasets
from gossamer.sources.assets import MissingAsset
from gossamer.sources.datasets import DATASETS, DataSet, dataset, listed, publish

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide two files that stand for the data set ecg, and an empty cache."""
    folder = tmp_path / "fetched"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "a.txt").write_text("one")
    (folder / "b.txt").write_text("two")
    known = DataSet(contents="two files", license="none", sha256=hashlib.sha256(listed(folder).encode()).hexdigest())
    monkeypatch.setattr(datasets, "DATASETS", dict(DATASETS) | {"ecg": known})
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    where = importlib.util.spec_from_file_location("fetch_data", ROOT / "scripts" / "fetch_data.py")
    assert where is not None and where.loader is not None
    module = importlib.util.module_from_spec(where)
    where.loader.exec_module(module)
    return module


def test_what_was_published_is_found(fetched):
    place = publish("ecg", fetched)
    assert dataset("ecg") == place
    assert (place / "below" / "a.txt").read_text() == "one" and (place / "b.txt").read_text() == "two"
    assert publish("ecg", fetched) == place


def test_the_listing_is_what_sha256sum_writes(fetched):
    one, two = (hashlib.sha256(word).hexdigest() for word in (b"one", b"two"))
    assert (publish("ecg", fetched) / "SHA256SUMS").read_text() == f"{two}  b.txt\n{one}  below/a.txt\n"


@pytest.mark.parametrize("change", ["content", "missing", "more", "renamed"])
def test_files_that_are_not_those_expected_are_not_published(fetched, change):
    a = fetched / "below" / "a.txt"
    if change == "content":
        a.write_text("One")
    elif change == "missing":
        a.unlink()
    elif change == "more":
        (fetched / "c.txt").touch()
    else:
        a.rename(fetched / "a.txt")
    with pytest.raises(ValueError, match="not those expected"):
        publish("ecg", fetched)
    assert not list((datasets.cache_folder() / "data").iterdir())
    with pytest.raises(MissingAsset):
        dataset("ecg")


@pytest.mark.parametrize("lost", ["b.txt", "below/a.txt", "SHA256SUMS"])
def test_a_data_set_that_lost_a_file_is_missing_and_is_put_back(fetched, lost):
    (publish("ecg", fetched) / lost).unlink()
    with pytest.raises(MissingAsset, match=re.escape("`python scripts/fetch_data.py ecg`")):
        dataset("ecg")
    publish("ecg", fetched)
    assert (dataset("ecg") / lost).is_file()


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'fashion-mnist'"):
        dataset("fashion_mnist")


class TestScript:
    def test_it_can_fetch_every_data_set(self, script):
        assert set(script.FETCHERS) == set(DATASETS)

    def test_what_is_there_is_not_fetched_again(self, script, fetched, capsys):
        place = publish("ecg", fetched)
        script.FETCHERS = {"ecg": None}
        assert script.main(["ecg"]) == 0
        assert capsys.readouterr().out == f"ecg\t{place}\n"

    def test_what_was_fetched_is_published(self, script, fetched, capsys):
        script.FETCHERS = {"ecg": lambda scratch: fetched}
        assert script.main(["ecg"]) == 0
        assert capsys.readouterr().out == f"ecg\t{dataset('ecg')}\n"

    def test_one_that_fails_says_why_and_the_next_is_fetched(self, script, fetched, capsys):
        def offline(scratch: Path) -> Path:
            command = [sys.executable, "-c", "raise SystemExit('Could not resolve host')"]
            script._run(command, scratch, "is the machine online?")
            return scratch

        script.FETCHERS = {"speech": offline, "ecg": lambda scratch: fetched}
        assert script.main(["speech", "ecg"]) == 1
        said = capsys.readouterr()
        assert "speech: " in said.err and "(Could not resolve host): is the machine online?" in said.err
        assert said.out.startswith("ecg\t")

    def test_without_debian_it_says_what_is_needed(self, script, fetched, capsys, monkeypatch):
        monkeypatch.setattr(script.shutil, "which", lambda tool: None)
        assert script.main(["speech"]) == 1
        assert "needs apt-get: fetch on Debian or Ubuntu" in capsys.readouterr().err

    @pytest.mark.parametrize("names", [[], ["ecgs"]])
    def test_a_wrong_name_lists_what_there_is(self, script, names, capsys):
        assert script.main(names) == 2
        said = capsys.readouterr().err
        assert all(name in said for name in DATASETS)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_data_set_on_this_machine_is_the_one_expected(name):
    try:
        folder = dataset(name)
    except MissingAsset as error:
        pytest.skip(str(error))
    listing = folder / "SHA256SUMS"
    assert hashlib.sha256(listing.read_bytes()).hexdigest() == DATASETS[name].sha256
    for line in listing.read_text().splitlines():
        digest, path = line.split("  ", 1)
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == digest
