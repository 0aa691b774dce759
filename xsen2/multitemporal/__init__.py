"""Several dates of a place: how far they lie from each other, and one finer image of them. Numpy alone."""
