"""scikit-learn estimators: a shell around the same parts and the same loop."""
