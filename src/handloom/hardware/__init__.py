"""What this machine is, how fast it is, what hinders it, and what was measured to be the fastest on it."""
