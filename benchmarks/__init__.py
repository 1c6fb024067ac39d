"""Measurements of Gossamer against other libraries; each command and how to read it is in `README.md`."""
