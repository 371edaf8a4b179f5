"""`fpd-train reproduce`: a table of several methods, each with the same budget, search and seeds."""
