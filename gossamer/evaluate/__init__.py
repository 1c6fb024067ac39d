"""Evaluation: one definition per metric."""
