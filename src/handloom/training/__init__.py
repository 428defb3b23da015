"""One loop that serves every kind of training, and what it needs: settings, optimizer, schedule, reports."""
