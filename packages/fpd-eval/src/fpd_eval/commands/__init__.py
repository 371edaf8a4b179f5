"""Commands of `fpd-eval`, one file each."""
