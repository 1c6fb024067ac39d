"""The loop: what it learns, what it writes, and what it refuses before any work starts."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch

import gossamer as gs
from gossamer.autoencoder.tasks import Reconstruct
from gossamer.sources.source import Batch
from gossamer.training import checkpoint as checkpoints
from gossamer.training.loop import DivergedError, train
from gossamer.training.metrics import read_metrics
from gossamer.training.run import RunSpec
from gossamer.training.spec import TrainSpec, derive
from gossamer.training.trainee import DeadLatents

WIDTH = 32


def rows(count: int = 3000, seed: int = 0) -> np.ndarray:
    """Sparse combinations of 96 directions, and a mean far from zero."""
    rng = np.random.default_rng(seed)
    codes = rng.exponential(size=(count, 96)) * (rng.random((count, 96)) < 0.05)
    directions = np.random.default_rng(99).standard_normal((96, WIDTH))
    return (codes @ directions + 5.0).astype(np.float32)


@pytest.fixture
def source() -> gs.Arrays:
    return gs.Arrays(rows())


def topk(latents: int = 128, l0: int = 5, seed: int = 0) -> gs.SparseAutoencoder:
    return gs.preset("topk", input_width=WIDTH, latents=latents, l0=l0).build(seed=seed)


def short(**changes) -> TrainSpec:
    return TrainSpec(rows=20 * 128, batch=128, log_every=5, checkpoint_every=10).replace(**changes)


def test_training_explains_held_out_rows_far_better_than_their_mean(source):
    sae = topk()
    train(sae, source, short(rows=60_000), quiet=True)
    x = torch.from_numpy(rows(seed=1))
    error = (sae(x).reconstruction - x).square().sum() / (x - x.mean(0)).square().sum()
    assert error < 0.25


def test_a_run_is_a_folder_that_loads_into_what_was_trained(source, tmp_path):
    sae = topk()
    run = train(sae, source, short(), out=tmp_path / "run", quiet=True)
    assert run.autoencoder is sae
    loaded = gs.load(run.folder)
    x = torch.from_numpy(rows(50))
    assert torch.equal(loaded(x).reconstruction, sae(x).reconstruction)
    assert sorted(path.name for path in run.folder.iterdir()) == ["checkpoints", "metrics.jsonl", "run.toml", "sae"]
    assert RunSpec.read(run.folder).train == short()
    assert [line["step"] for line in read_metrics(run.folder)] == [5, 10, 15, 20]


def test_several_models_share_every_batch_and_train_as_if_alone(source, tmp_path):
    together = [topk(), topk(latents=64, l0=3, seed=1)]
    alone = topk(latents=64, l0=3, seed=1)
    run = train(together, source, short(), out=tmp_path / "run", quiet=True)
    train(alone, source, short(), quiet=True)
    assert torch.equal(together[1].decoder.weight, alone.decoder.weight)
    with pytest.raises(ValueError, match=r"0-topk.*1-topk"):
        gs.load(run.folder)
    assert gs.load(run.folder / "sae" / "1-topk").spec == alone.spec


def test_decoder_rows_have_unit_norm_after_training(source):
    sae = topk()
    train(sae, source, short(), quiet=True)
    assert torch.allclose(sae.decoder.weight.norm(dim=1), torch.ones(128), atol=1e-5)


def test_training_goes_on_from_a_trained_autoencoder_without_forgetting_it(source):
    sae = topk()
    train(sae, source, short(rows=60_000), quiet=True)
    x = torch.from_numpy(rows(seed=1))
    before = (sae(x).reconstruction - x).square().mean()
    train(sae, source, short(learning_rate=1e-6), quiet=True)
    after = (sae(x).reconstruction - x).square().mean()
    assert abs(after / before - 1) < 0.02


def test_the_feed_gives_every_row_once_an_epoch_and_a_new_order_each(source):
    from gossamer.sources.source import Feed

    feed = Feed(source, batch=19, seed=0)
    per_epoch = source.rows // 19
    epochs = [torch.cat([feed.next().origins[:, 1] for _ in range(per_epoch)]) for _ in range(2)]
    assert source.rows % 19 == 0
    held_out = {int(row) for batch in source.validation(batch=64) for row in batch.origins[:, 1]}
    for order in epochs:
        assert set(order.tolist()) == set(range(3000)) - held_out
        assert len(order) == source.rows
    assert not torch.equal(*epochs)


def test_the_hot_loop_asks_the_device_nothing_outside_logging_steps(monkeypatch):
    source = gs.Arrays(rows(12_000))  # one epoch: a feed asks once per buffer whether its rows are finite
    asked = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)

        def ask(self, original=original):
            asked.append(1)
            return original(self)

        monkeypatch.setattr(torch.Tensor, name, ask)
    train(topk(), source, short(log_every=1000, checkpoint_every=1000, rows=40 * 128), quiet=True)
    few = len(asked)
    asked.clear()
    train(topk(), source, short(log_every=1000, checkpoint_every=1000, rows=80 * 128), quiet=True)
    assert len(asked) == few


def test_dead_latents_are_those_silent_for_the_whole_window():
    dead = DeadLatents(4, dead_after=20, device=torch.device("cpu"))
    silent = gs.SparseCodes.from_topk(torch.zeros(10, 1, dtype=torch.int64), torch.zeros(10, 1), latents=4)
    first = gs.SparseCodes.from_topk(torch.full((10, 1), 2), torch.ones(10, 1), latents=4)
    dead.update(first)
    dead.update(silent)
    assert dead.silent_rows.tolist() == [20, 20, 10, 20]
    dead.refresh()
    assert dead.indices.tolist() == [0, 1, 3]
    assert dead.share().item() == 0.75


def test_auxk_brings_back_latents_that_never_make_it_into_the_top_k(source):
    spec = topk().spec
    saes = [spec.build(seed=0), spec.replace(auxiliaries=()).build(seed=0)]
    for sae in saes:
        sae.encoder.weight.data[:64] *= 1e-3
    train(saes, source, short(rows=40_000, dead_after=1280, learning_rate=3e-3), quiet=True)
    x = torch.from_numpy(rows())
    with_auxk, without = (int((sae.encode(x).to_dense()[:, :64] > 0).any(0).sum()) for sae in saes)
    assert without == 0
    assert with_auxk > 32


def test_the_learning_rate_rises_stays_and_falls():
    spec = TrainSpec(rows=1000 * 100, batch=100)
    derived = derive(spec, topk().spec)
    rates = [derived.learning_rate_at(step, spec.steps) for step in range(spec.steps)]
    assert derived.warmup_steps == 50
    assert derived.decay_steps == 200
    assert rates[0] == pytest.approx(derived.learning_rate / 51)
    assert set(rates[50:800]) == {derived.learning_rate}
    assert all(late < early for early, late in zip(rates[800:], rates[801:], strict=False))
    assert 0 < rates[-1] < 0.01 * derived.learning_rate


def test_the_learning_rate_falls_with_the_square_root_of_the_latents():
    spec = TrainSpec()
    tiny, small, large = (derive(spec, topk(latents=n).spec).learning_rate for n in (100, 2000, 8000))
    assert small == pytest.approx(2 * large)
    assert tiny == 1e-2


def test_given_numbers_override_the_derived_ones():
    spec = TrainSpec(learning_rate=0.1, warmup_steps=0, decay_steps=0, dead_after=7)
    assert derive(spec, topk().spec).to_dict() == {
        "learning_rate": 0.1,
        "warmup_steps": 0,
        "decay_steps": 0,
        "dead_after": 7,
        "between": "plateau",
    }


def test_a_loss_that_explodes_stops_the_run_names_the_batch_and_keeps_the_last_good_checkpoint(source, tmp_path):
    class Poisoned(gs.Arrays):
        """From the second buffer on, rows too large to square."""

        def read(self, units):
            batch = super().read(units)
            return Batch({"": batch.rows[""] * (1e30 if self.poison and len(units) > 1 else 1.0)}, batch.origins)

    poisoned = Poisoned(rows(), buffer_rows=14 * 128)
    poisoned.poison = False
    reads = []
    original = poisoned.read

    def read(units):
        reads.append(len(units))
        poisoned.poison = len([n for n in reads if n > 1000]) > 1
        return original(units)

    poisoned.read = read
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"batch 1[0-9] \(rows 1,[0-9]{3} to .*last good checkpoint.*step-00000010"):
        train(topk(), poisoned, short(), out=out, quiet=True)
    good = checkpoints.read(checkpoints.newest(out))
    assert good.step == 10
    assert all(torch.isfinite(t).all() for t in good.tensors.values())


def test_rows_that_are_not_finite_are_refused_before_the_first_step_and_named(tmp_path):
    x = rows()
    x[[7, 8], 3] = np.nan
    documents = np.arange(3000) // 10
    with pytest.raises(ValueError, match=r"2 rows hold NaN or infinity, the first at document 0, position [78]"):
        train(topk(), gs.Arrays(x, documents=documents, validation=0), short(), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(device="cuda:99"), r"no device 'cuda:99'.*cpu"),
        (dict(device="gpu"), r"no device 'gpu'"),
    ],
)
def test_an_unknown_device_is_named(source, change, message):
    with pytest.raises(ValueError, match=message):
        train(topk(), source, short(**change), quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(rows=10, batch=100), "less than one batch"),
        (dict(rows=0), "rows must be at least 1"),
        (dict(learning_rate=-1.0), "learning_rate must be above 0"),
        (dict(seed=-1), "seed"),
        (dict(warmup_steps=-1), "warmup_steps"),
    ],
)
def test_impossible_numbers_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainSpec(**changes)


def test_a_width_that_does_not_fit_is_refused_with_both_numbers(source):
    sae = gs.preset("topk", input_width=33, latents=64, l0=2).build()
    with pytest.raises(ValueError, match=r"33.*32"):
        train(sae, source, short(), quiet=True)


def test_an_empty_list_and_the_same_model_twice_are_refused(source):
    sae = topk()
    with pytest.raises(ValueError, match="no autoencoder"):
        train([], source, short(), quiet=True)
    with pytest.raises(ValueError, match="twice"):
        train([sae, sae], source, short(), quiet=True)


def test_an_unknown_site_is_refused(source):
    sae = topk().spec.replace(task=Reconstruct(site="model.layers.3")).build()
    with pytest.raises(ValueError, match=r"model\.layers\.3"):
        train(sae, source, short(), quiet=True)


class Sites(gs.Arrays):
    """The same rows at several sites, cut to their widths."""

    def __init__(self, **widths: int):
        super().__init__(rows())
        self.widths = widths

    def read(self, units):
        batch = super().read(units)
        return Batch({site: batch.rows[""][:, :width] for site, width in self.widths.items()}, batch.origins)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("transcoder", dict(input_width=32, site="a", target="c"), r"at c, output_width 32, .* are 24 wide"),
        ("transcoder", dict(input_width=32, site="a", target="c", width=32), r"at c, output_width 32, .* are 24 wide"),
        ("transcoder", dict(input_width=24, site="a", target="c"), r"at a, input_width 24, .* are 32 wide"),
        ("transcoder", dict(input_width=32, site="a", target="z"), r"site 'z', but the source has 'a', 'b', 'c'"),
        ("crosscoder", dict(input_width=56, sites=("a", "c"), widths=(24, 32)), r"at a, 24 of its input_width 56.* 32"),
        ("crosscoder", dict(input_width=64, sites=("a", "c"), widths=(32, 32)), r"at c, 32 of its input_width 64.* 24"),
        ("crosscoder", dict(input_width=64, sites=("a", "z"), widths=(32, 32)), r"site 'z', but the source has 'a'"),
        ("clt", dict(input_width=64, sites=("a", "b"), targets=("b", "c")), r"at c, 32 of its output_width 64.* 24"),
        ("clt", dict(input_width=56, sites=("a", "c"), targets=("b", "a")), r"at a, 28 of its input_width 56.* 32"),
        ("topk", dict(input_width=32), r"site '', but the source has 'a', 'b', 'c'"),
        ("end-to-end", dict(input_width=32, site="a"), r"no model to run; use a source of kind 'model'"),
    ],
)
def test_sites_that_do_not_exist_or_do_not_fit_are_named_before_anything_starts(name, options, message, tmp_path):
    sae = gs.preset(name, latents=64, l0=4, **options).build()
    with pytest.raises(ValueError, match=message):
        train(sae, Sites(a=32, b=32, c=24), short(), out=tmp_path / "run", quiet=True)
    assert sae.is_fresh
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_or_something_else_is_left_alone(source, tmp_path):
    out = tmp_path / "run"
    train(topk(), source, short(), out=out, quiet=True)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="already holds a run"):
        train(topk(), source, short(), out=out, quiet=True)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        train(topk(), source, short(), out=tmp_path / "other", quiet=True)
    with pytest.raises(ValueError, match="is a file"):
        train(topk(), source, short(), out=tmp_path / "other" / "thesis.txt", quiet=True)


def test_resuming_with_other_arguments_names_the_difference(source, tmp_path):
    out = tmp_path / "run"
    train(topk(), source, short(), out=out, quiet=True)
    (out / "sae" / "spec.json").unlink()
    with pytest.raises(ValueError, match=r"train\.seed: saved 0, given 5"):
        train(topk(), source, short(seed=5), out=out, resume=True, quiet=True)
    with pytest.raises(ValueError, match=r"autoencoders\[0\]\.sparsity\.k: saved 5, given 6"):
        train(topk(l0=6), source, short(), out=out, resume=True, quiet=True)
    with pytest.raises(ValueError, match=r"fingerprint\.content"):
        train(topk(), gs.Arrays(rows(seed=4)), short(), out=out, resume=True, quiet=True)


def test_resume_starts_when_there_is_nothing_and_opens_what_is_finished(source, tmp_path):
    out = tmp_path / "run"
    sae = topk()
    train(sae, source, short(), out=out, resume=True, quiet=True)
    given = topk(seed=9)
    again = train(given, source, short(), out=out, resume=True, quiet=True)
    assert again.autoencoder is given
    assert torch.equal(given.decoder.weight, sae.decoder.weight)
    assert given.provenance == gs.load(out).provenance != topk().provenance


def test_what_a_stopped_run_started_from_is_not_needed_to_go_on(source, tmp_path):
    train(topk(), source, short(), out=tmp_path / "first", quiet=True)
    begun = {"start_from": tmp_path / "first", "out": tmp_path / "second", "quiet": True}
    run = train(topk(seed=1), source, short(), **begun)
    (tmp_path / "second" / "sae" / "spec.json").unlink()
    newest = checkpoints.newest(tmp_path / "second")
    shutil.rmtree(newest)
    (tmp_path / "first").rename(tmp_path / "moved")
    again = train(topk(seed=1), source, short(), resume=True, **begun)
    assert torch.equal(again.autoencoder.decoder.weight, run.autoencoder.decoder.weight)


def test_a_truncated_checkpoint_is_refused_with_the_remedy_and_the_one_before_still_serves(source, tmp_path):
    out = tmp_path / "run"
    whole = topk()
    train(whole, source, short(), out=out, quiet=True)
    (out / "sae" / "spec.json").unlink()
    newest = checkpoints.newest(out) / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cannot be read.*Remove .*step-00000020.*goes on from step-00000010"):
        train(topk(), source, short(), out=out, resume=True, quiet=True)
    newest.unlink()
    newest.parent.rmdir()
    resumed = topk()
    train(resumed, source, short(), out=out, resume=True, quiet=True)
    assert torch.equal(resumed.decoder.weight, whole.decoder.weight)


def test_only_the_newest_checkpoints_stay(source, tmp_path):
    train(topk(), source, short(checkpoint_every=2), out=tmp_path / "run", quiet=True)
    assert [p.name for p in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["step-00000018", "step-00000020"]


def test_the_plan_says_what_will_happen_and_touches_nothing(source, tmp_path):
    sae = topk()
    before = {name: t.clone() for name, t in sae.state_dict().items()}
    plan = gs.plan(sae, source, short(), out=tmp_path / "run")
    for word in ("2,560 in 20 steps of 128", "32 → 128 latents", "TopK(k=5, ", "memory", "time", str(tmp_path / "run")):
        assert word in str(plan)
    assert plan.seconds > 0
    assert not (tmp_path / "run").exists()
    assert all(torch.equal(t, before[name]) for name, t in sae.state_dict().items())


def test_the_log_holds_finite_plain_numbers(source, tmp_path):
    train(topk(), source, short(), out=tmp_path / "run", quiet=True)
    for line in read_metrics(tmp_path / "run"):
        assert set(line) == {
            *("step", "rows", "model", "learning_rate", "loss", "reconstruction", "auxk", "l0", "dead", "seconds"),
        }
        assert all(math.isfinite(value) for value in line.values())
        assert line["rows"] == line["step"] * 128
        assert 0 < line["l0"] <= 5


def test_a_damaged_log_is_named_with_its_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n{broken\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path)


def test_training_leaves_the_global_random_state_alone(source):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(topk(), source, short(), quiet=True)
    assert torch.equal(torch.rand(3), expected)
