"""The estimators on public data, measured beside what is published and beside scikit-learn."""
