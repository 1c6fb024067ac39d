"""Different methods on the same data, at equal parameters and at equal training time: a table, pictures, no opinion."""
