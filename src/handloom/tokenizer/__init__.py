"""Text <-> ids. Knows no torch.

split.py cuts text into pieces, bpe.py merges the bytes of a piece into tokens, learn.py finds out which
merges, files.py keeps them on disk, gpt2.py has GPT-2's and the fast path, stream.py decodes as ids arrive,
chat.py writes conversations.
"""
