"""What a program in another language must know of a graph: its inputs, its tokens, how a text becomes numbers."""

from typing import Any

from fpd_core.export.graph import Graph
from fpd_core.networks.scene_text import PAD, SceneText
from fpd_core.teachers import Teacher
from fpd_core.teachers.fashion import CLASSES, FashionTeacher


def description(graph: Graph) -> dict[str, Any]:
    """JSON that goes beside an exported graph."""
    model = graph.model
    return {
        "graph": type(graph).__name__,
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "sequence_length": model.seq_len,
        "codebook_size": model.codebook_size,
        "mask_id": model.mask_id,
        "image_size": model.image_size,
        **wanted(model),
    }


def wanted(model: Teacher) -> dict[str, Any]:
    """`classes`, numbers and names where there are names, or `vocabulary`: a text tower's tokenizer."""
    if model.num_classes is not None:
        return {
            "num_classes": model.num_classes,
            "classes": list(CLASSES) if isinstance(model, FashionTeacher) else [],
        }
    text: Any = getattr(model, "text")  # noqa: B009
    if isinstance(text, SceneText):
        words = {word: number for number, word in enumerate(text.config.words, start=1)}
        return {
            "vocabulary": {
                "kind": "words",
                "rule": "lower case; a comma is a space; final stops and spaces go; words are what spaces part; "
                "a word in s or es that is no token is the token before the ending and +s",
                "context_length": text.config.context_len,
                "padding": PAD,
                "tokens": words,
            },
            "example_prompts": list(model.example_prompts),
        }
    tokenizer = text._tokenizer
    return {
        "vocabulary": {
            "kind": "clip_bpe",
            "context_length": text.config.context_len,
            "padding": text.config.pad_id,
            "tokens": tokenizer.encoder,
            "merges": [" ".join(pair) for pair in sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)],
        },
        "example_prompts": list(model.example_prompts),
    }
