"""Linear layers kept in formats that are smaller or faster than float32 weights."""
