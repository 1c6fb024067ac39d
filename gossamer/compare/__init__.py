"""Different methods on the same rows, at equal parameters and at equal training time: a table, pictures, no opinion."""
