"""Text on disk becomes batches: corpus -> split -> pieces -> shards -> windows.

Knows tokenizers by their protocol; knows no torch, no model and no training.
"""
