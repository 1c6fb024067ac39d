"""The command line: one file per verb, no logic. Nothing here imports torch before a verb needs it."""
