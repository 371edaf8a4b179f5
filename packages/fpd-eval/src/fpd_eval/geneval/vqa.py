"""A chat network that sees pictures, asked for one word: the judge of GenEval 2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fpd_core.checkpoints import CheckpointError, unfit
from fpd_core.hashing import hash_tensors
from fpd_eval.extractors.weights import DAMAGE, open_pretrained
from fpd_eval.geneval.second import Question


class VqaJudge:
    """Probability of the right word as the first of the answer, as GenEval 2's program reads Qwen3-VL.

    Guess: of the wordings of an answer those count that are one token of the network; the program's own list could not
    be read. `identity` says which network judged.

    Args:
        folder: as `save_pretrained` writes it, with the processor and its chat template.

    Raises:
        CheckpointError: a file is absent or damaged, or it is no network that answers about pictures.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        import transformers

        processors: Any = transformers.AutoProcessor
        network: Any = open_pretrained(
            transformers.AutoModelForImageTextToText, folder, "network that answers about pictures"
        )
        try:
            self._processor: Any = processors.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except DAMAGE as error:
            raise unfit(folder, "holds no processor of text and pictures", error) from None
        self._network, self._device = network.eval().requires_grad_(False).to(device), device
        self.identity = {"judge": type(network).__name__, "weights_sha256": hash_tensors(network.state_dict())}

    @torch.no_grad()
    def __call__(self, picture: Image.Image, questions: Sequence[Question]) -> list[float]:
        """Probabilities of the right answers about an RGB picture."""
        return [self._probability(picture, question, wordings) for question, wordings in questions]

    def _probability(self, picture: Image.Image, question: str, wordings: Sequence[str]) -> float:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        said = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        batch = self._processor(text=[said], images=[picture], return_tensors="pt").to(self._device)
        chances = self._network(**batch).logits[0, -1].float().softmax(-1)
        tokens = {tuple(self._processor.tokenizer.encode(one, add_special_tokens=False)) for one in wordings}
        single = sorted({one[0] for one in tokens if len(one) == 1})
        if not single:
            raise CheckpointError(f"no wording of {wordings[0]!r} is one token of this network; it cannot judge")
        return float(chances[single].sum().clamp(max=1))
