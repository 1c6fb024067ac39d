"""Autoencoders come from a hub and go to one; without a network the cache answers, or the reader is told."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import gossamer as gs
from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.provenance import Provenance
from gossamer.cli.main import main
from gossamer.interop import hub as our_hub
from gossamer.interop import sparsify

pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:httpx2")


def _server() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).parent / "hub_server.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


server = _server()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[server.Hub]:
    """A hub on this machine that huggingface_hub takes for the only one, with an empty cache."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    with server.Hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files go the way of git-lfs
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        yield running


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to take the network away, as HF_HUB_OFFLINE=1 does."""
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def sae() -> SparseAutoencoder:
    made = gs.preset("topk", input_width=16, latents=32, l0=4).build(seed=0)
    made.provenance = Provenance(model="owner/model", site="model.layers.2", metrics={"l0": 4.0, "fvu": 0.125})
    return made.eval()


def require_same(one: SparseAutoencoder, other: SparseAutoencoder) -> None:
    assert one.spec == other.spec
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def put(running: server.Hub, repo: str, folder: Path) -> None:
    running.repositories[repo] = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


class TestPushing:
    def test_what_is_pushed_comes_back_with_its_provenance(
        self, hub: server.Hub, sae: SparseAutoencoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        gs.save(sae, tmp_path / "run" / "sae")
        assert main(["push", str(tmp_path / "run"), "owner/name", "--license", "apache-2.0"]) == 0
        assert "owner/name" in capsys.readouterr().out
        files = hub.repositories["owner/name"]
        assert sorted(files) == ["README.md", "provenance.json", "spec.json", "weights.safetensors"]
        again = gs.from_pretrained("owner/name")
        require_same(again, sae)
        assert again.provenance == sae.provenance.replace(license="apache-2.0")

    def test_the_card_has_a_head_that_hubs_read_and_says_how_to_load(self, hub: server.Hub, sae: SparseAutoencoder):
        import yaml

        our_hub.push({"layers.2": sae, "layers.10": sae}, "owner/name")
        card = hub.repositories["owner/name"]["README.md"].decode()
        head = yaml.safe_load(card.split("---\n")[1])
        assert head["library_name"] == "gossamer"
        assert head["base_model"] == ["owner/model"]
        assert "| layers.10 | topk | 16 | 32 | 4 | 0.125 |" in card
        (code,) = card.split("```python\n")[1].split("```")[:1]
        names = {"rows": torch.ones(3, 16)}
        exec(code, names)  # the card's own example
        assert names["back"].shape == (3, 16)  # pyright: ignore[reportAttributeAccessIssue]

    def test_a_card_of_somebody_else_stays_and_ours_is_renewed(self, hub: server.Hub, sae: SparseAutoencoder):
        hub.repositories["owner/name"] = {"README.md": b"mine"}
        our_hub.push({"": sae}, "owner/name")
        assert hub.repositories["owner/name"]["README.md"] == b"mine"
        our_hub.push({"": sae}, "owner/other")
        sae.provenance = sae.provenance.replace(metrics={"l0": 3.0})
        our_hub.push({"": sae}, "owner/other")
        assert b"| 3 |" in hub.repositories["owner/other"]["README.md"]


class TestFetching:
    def test_only_the_folder_that_was_asked_for_is_fetched(
        self, hub: server.Hub, sae: SparseAutoencoder, tmp_path: Path
    ):
        for layer in ("layers.2", "layers.10"):
            sparsify.write(sae, tmp_path / "repo" / layer)
        put(hub, "owner/repo", tmp_path / "repo")
        hub.repositories["owner/repo"]["layers.2/modeling.py"] = b"raise SystemExit"
        hub.repositories["owner/repo"]["README.md"] = b"---\ntags: [x]\nlicense: mit\n---\n# Title\n"
        found = gs.from_pretrained("owner/repo", "layers.2")
        require_same(found, sae)
        assert found.provenance.license == "mit"
        fetched = [line.split("/resolve/")[1].split("/", 1)[1] for line in hub.asked if "/resolve/" in line]
        assert set(fetched) == {"README.md", "layers.2/cfg.json", "layers.2/sae.safetensors"}
        with pytest.raises(ValueError, match=r"2 folders with weights; choose one of them: 'layers\.10', 'layers\.2'"):
            gs.from_pretrained("owner/repo")
        with pytest.raises(ValueError, match=r"has no weights in 'layers\.3'"):
            gs.load("hf:owner/repo/layers.3")

    def test_without_a_network_the_cache_answers(
        self,
        hub: server.Hub,
        offline: Callable[[], None],
        sae: SparseAutoencoder,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ):
        sparsify.write(sae, tmp_path / "repo" / "layers.2")
        put(hub, "owner/repo", tmp_path / "repo")
        first = gs.from_pretrained("owner/repo", "layers.2")
        asked = len(hub.asked)
        offline()
        for again in (gs.from_pretrained("owner/repo", "layers.2"), gs.load("hf:owner/repo", "layers.2")):
            require_same(again, first)
        assert main(["convert", "hf:owner/repo/layers.2", "--to", "saelens", "-o", str(tmp_path / "out")]) == 0
        require_same(gs.load(tmp_path / "out"), sae)
        assert len(hub.asked) == asked
        with pytest.raises(OSError, match="owner/other is not in the cache"):
            gs.from_pretrained("owner/other")
        assert main(["inspect", "hf:owner/other"]) == 1
        assert "is not in the cache" in capsys.readouterr().err

    def test_a_hub_that_does_not_answer_is_a_network_that_is_off(
        self, hub: server.Hub, sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # it is asked again and again, a while apart
        our_hub.push({"": sae}, "owner/name")
        first = gs.from_pretrained("owner/name")
        hub.stop()
        require_same(gs.from_pretrained("owner/name"), first)
        with pytest.raises(OSError, match="owner/other"):
            gs.from_pretrained("owner/other")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("hf:owner/nothing", "there is no repository"),
            ("hf:owner", "expected hf:owner/repo"),
            ("hf:owner/empty", "has no weights"),
            ("hf:owner/repo/../../x", "leaves the repository"),
            ("hf:owner/repo name", "repository or revision"),
        ],
    )
    def test_what_is_not_there_is_said(self, hub: server.Hub, name: str, message: str):
        hub.repositories["owner/empty"] = {"README.md": b""}
        with pytest.raises(ValueError, match=message):
            gs.load(name)

    def test_a_listing_that_leads_out_of_the_cache_writes_nothing_there(
        self, hub: server.Hub, sae: SparseAutoencoder, tmp_path: Path
    ):
        gs.save(sae, tmp_path / "repo")
        put(hub, "owner/repo", tmp_path / "repo")
        hub.repositories["owner/repo"]["../../../../outside.json"] = json.dumps({"a": 1}).encode()
        before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
        with pytest.raises((ValueError, OSError)):
            gs.from_pretrained("owner/repo")
        assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
        assert not list(tmp_path.rglob("outside.json*"))
