"""The Transformer, from tensors up.

It knows architecture only: no files, no tokenizer, no optimizer, no printing, no sampling.
Read downward: `config` -> `embedding` -> `attention` -> `feedforward` -> `block` -> `gpt` -> `loss`.

Shape letters, used on every line that reshapes a tensor:

    B  batch        how many sequences are handled together
    T  time         tokens in a sequence
    S  source       positions that a query may look at: T, or with a cache past + T
    C  channels     width of the residual stream
    H  heads        attention heads
    D  head width   C / H
    V  vocabulary   number of token ids
"""
