"""fpd-eval: measures one-step generators against their teachers."""
