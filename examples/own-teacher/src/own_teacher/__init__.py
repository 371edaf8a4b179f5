"""A generator family for fpd, and how to judge it."""
