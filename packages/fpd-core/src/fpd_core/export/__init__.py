"""Generators as one graph: what is traced (`graph`), as ONNX (`onnx_file`) and as torch's own program (`program`)."""
