"""What tuning changes in a model that is there: which of its parameters learn, and detours beside its matrices."""
