"""Measures what Handloom does on this machine: each precision in a process of its own, taking turns. See `kinds`."""
