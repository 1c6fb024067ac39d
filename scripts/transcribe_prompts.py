"""What Whisper hears in real telephone prompts: the spoken numbers, whose files say what they are, and some sentences.

    python scripts/transcribe_prompts.py

The prompts are the data set `speech` (8 kHz, resampled to Whisper's 16 kHz). A number counts as heard if the transcript
is the number, in digits or in words.
"""

from __future__ import annotations

import re
import sys
import time

from gossamer.pretrained import generate, open_writer
from gossamer.sources.datasets import dataset

WORDS = dict(enumerate("zero one two three four five six seven eight nine ten eleven twelve".split()))  # noqa: SIM905
NUMBERS = [*range(21), *range(30, 100, 10)]
SENTENCES = (
    "all-circuits-busy-now",
    "auth-incorrect",
    "call-forwarding",
    "cannot-complete-as-dialed",
    "conf-adminmenu-162",
    "conf-getconfno",
    "confbridge-only-one",
    "queue-youarenext",
    "vm-instructions",
    "vm-rec-name",
)


def bare(text: str) -> str:
    """Return a text in small letters without punctuation."""
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).strip()


def main() -> int:
    """Print numbers and sentences as Whisper hears them."""
    folder = dataset("speech")
    writer = open_writer("whisper-tiny.en")
    began = time.monotonic()
    heard = generate(writer, [folder / "digits" / f"{number}.wav" for number in NUMBERS], longest=16)
    right = [
        bare(written.text) in (str(number), WORDS.get(number)) for number, written in zip(NUMBERS, heard, strict=True)
    ]
    wrong = ", ".join(
        f"{number} as {written.text!r}" for number, written, fine in zip(NUMBERS, heard, right, strict=True) if not fine
    )
    print(f"spoken numbers: {sum(right)} of {len(right)} right{f'; {wrong}' if wrong else ''}")
    files = [folder / f"{name}.wav" for name in SENTENCES if (folder / f"{name}.wav").is_file()]
    for file, written in zip(files, generate(writer, files, longest=100), strict=True):
        print(f"{file.stem:<28}{written.text}")
    print(f"{len(NUMBERS) + len(files)} prompts in {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
