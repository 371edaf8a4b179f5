"""Runs a notebook from the repository's root and fails where a cell does; `--write` keeps what it printed and drew."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

path = Path(sys.argv[1])
notebook = nbformat.read(path, as_version=4)
NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
if "--write" in sys.argv:
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    nbformat.write(notebook, path)
print(f"{path}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")
