"""gossamer seq2seq train, gossamer seq2seq translate and gossamer seq2seq evaluate."""

from __future__ import annotations

import sys
from typing import Annotated

import tyro

__all__ = ["evaluate", "train", "translate"]


def train(
    recipe: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RECIPE]")] = None,
    *,
    resume: str | None = None,
    rows: int | None = None,
    out: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    start_from: str | None = None,
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Train the transformer of a recipe on pairs of sequences, or go on with a run that was stopped.

    Args:
        recipe: A TOML file, such as recipes/g2p.toml. The flags below replace what it says.
        resume: The folder of a run to go on with, instead of a recipe.
        rows: Pairs to train on; more than there are means further epochs.
        out: The folder of the run.
        seed: Of the initial weights, the order of pairs, and dropout.
        device: cpu, cuda, cuda:1, ...; auto is the GPU if there is one.
        start_from: A finished run whose weights to start with, to train for longer or on other pairs.
        dry_run: Say what would happen, and stop.
    """
    from gossamer.cli.train import train as train_recipe

    train_recipe(
        recipe, resume=resume, rows=rows, out=out, seed=seed, device=device, start_from=start_from, dry_run=dry_run
    )


def translate(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    texts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT ...")],
    *,
    together: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN ...")] = (),
    beam: int = 1,
    length_penalty: float = 1.0,
    longest: int = 64,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    best: int = 1,
    attention: str | None = None,
    device: str = "auto",
) -> None:
    """Say what a trained transformer makes of some texts.

    Args:
        run: The folder of a run.
        texts: Sources, each in quotation marks if it holds spaces.
        together: Folders of further runs that have a say in every token: the mean of the probabilities counts.
        beam: Hypotheses that are kept while searching; 1 takes the likeliest token at each step.
        length_penalty: How much longer targets are favored by beam search; 0 not at all.
        longest: Tokens of a target at most.
        temperature: Draw tokens at random instead; below 1 likely ones are favored.
        top_k: Draw from so many likeliest tokens only.
        top_p: Draw from the likeliest tokens that together have this probability.
        seed: Of the draws.
        best: Hypotheses to print, at most as many as the beam.
        attention: A picture to write (.png, .svg, .pdf): what each token of the targets looked at.
        device: cpu, cuda, cuda:1, ...; auto is the GPU if there is one.
    """
    if not texts:
        raise ValueError("give a text to translate")
    if not 1 <= best <= beam:
        raise ValueError(f"best is from 1 to beam = {beam}, got {best}")

    from gossamer.evaluate.translation import draw_attention, picture_kind
    from gossamer.training.devices import resolve_device
    from gossamer.transformer.generate import Decoding
    from gossamer.transformer.translator import Translator
    from gossamer.transformer.vocabulary import END

    decoding = Decoding(
        longest=longest,
        beam=beam,
        length_penalty=length_penalty,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    if attention is not None:
        picture_kind(attention)
    translator = Translator.open(run, together=together, device=str(resolve_device(device)))
    translations = translator.translate(texts, decoding)
    for translation in translations:
        for hypothesis in translation.hypotheses[:best]:
            print(f"{translation.source}\t{hypothesis.text}\t{hypothesis.log_probability:.3f}")
    cut = sum(END not in translation.hypotheses[0].ids for translation in translations)
    if cut:
        print(f"{cut} of {len(texts)} targets were cut off after {longest} tokens; see --longest", file=sys.stderr)
    if attention is not None:
        draw_attention(translator, translations, attention)


def evaluate(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    together: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN ...")] = (),
    beam: int = 1,
    length_penalty: float = 1.0,
    longest: int | None = None,
    sources: int | None = None,
    device: str = "auto",
) -> None:
    """Measure a trained transformer on what its training never saw.

    Writes evaluation.json, errors.tsv and attention.png into the folder. Any of several right targets counts.

    Args:
        run: The folder of a run.
        together: Folders of further runs that have a say in every token: the mean of the probabilities counts.
        beam: Hypotheses that are kept while searching.
        length_penalty: How much longer targets are favored by beam search; 0 not at all.
        longest: Tokens of a target at most; by default 64, or twice those of the longest right target.
        sources: So many of them, drawn at random; all by default.
        device: cpu, cuda, cuda:1, ...; auto is the GPU if there is one.
    """
    from gossamer.evaluate.translation import evaluate_translations

    result = evaluate_translations(
        run,
        together=together,
        beam=beam,
        length_penalty=length_penalty,
        longest=longest,
        sources=sources,
        device=device,
    )
    score = result.score
    print(f"error rate        {score.error_rate:.2%} of {score.sources:,} sources")
    print(f"token error rate  {score.token_error_rate:.2%}")
    print(f"written to {run}: evaluation.json, errors.tsv, attention.png")
