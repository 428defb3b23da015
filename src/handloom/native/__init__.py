"""C for the processor: packed linear layers, and one token of a whole model in one call."""
