"""Handloom: a GPT written by hand in PyTorch, for the computer you already have."""

__version__ = "0.1.0"
