"""HPSv3: a Qwen2-VL whose answer is read by a small head instead of its vocabulary."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from fpd_core.checkpoints import CheckpointError, load_strict, unfit
from fpd_core.containers import read_public
from fpd_core.untrusted import read_bytes
from fpd_eval.extractors.weights import DAMAGE, locate
from fpd_eval.images.pairs import Pairs
from fpd_eval.runtime.cache import hash_file, hash_json

FILE, INSTRUCTION = "HPSv3.safetensors", "instruction.txt"
REWARD, PLACE = "<|Reward|>", "{text_prompt}"
PIXELS = 256 * 28 * 28
# The published file has the names of transformers 4.45; rm_head is ours.
RENAMED = (("visual.", "model.visual."), ("model.", "model.language_model."))
INSTRUCTION_BYTES = 2**16


class Hpsv3:
    """Output "rewards" [B, 2]: μ and σ.

    The folder holds configuration, tokenizer and processor of `Qwen/Qwen2-VL-7B-Instruct`, `HPSv3.safetensors` of
    `MizzenAI/HPSv3`, and the question of its program as `instruction.txt` with {text_prompt} and <|Reward|> in it. The
    network runs in bfloat16 on a GPU, as published, in float32 on the CPU, the head in float32. Written from the public
    program, not yet run with the published weights.

    Raises:
        CheckpointError: the folder lacks a file, or one is damaged or of another network.
    """

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        import transformers

        processors: Any = transformers.AutoProcessor
        folder = locate("hpsv3", weights)
        self._question = _question(folder / INSTRUCTION)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            self._processor: Any = processors.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, padding_side="right"
            )
            network: Any = transformers.Qwen2VLForConditionalGeneration(config)
        except DAMAGE as error:
            raise unfit(folder, "holds no Qwen2-VL", error) from None
        self._processor.tokenizer.add_special_tokens({"additional_special_tokens": [REWARD]})
        self._reward = self._processor.tokenizer.convert_tokens_to_ids(REWARD)
        network.to(dtype).resize_token_embeddings(len(self._processor.tokenizer))
        network.rm_head = reward_head(config.get_text_config().hidden_size)
        load_strict(network, {_renamed(key): value for key, value in read_public(folder / FILE).items()}, str(folder))
        self._network = network.eval().requires_grad_(False).to(device)
        self._network.rm_head.float()
        self._device = device
        self.fingerprint = hash_json(["HPSv3", hash_file(folder / FILE), self._question, str(dtype)])

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> dict[str, Tensor]:
        texts = [self._chat(caption) for caption in pairs.captions]
        images = [Image.Image.convert(picture, "RGB") for picture in pairs.pictures]
        limits = {"min_pixels": PIXELS, "max_pixels": PIXELS}
        batch = self._processor(text=texts, images=images, padding=True, return_tensors="pt", images_kwargs=limits).to(
            self._device
        )
        hidden = self._network.model(**batch).last_hidden_state
        asked = batch["input_ids"] == self._reward
        return {"rewards": self._network.rm_head(hidden[asked].float()).float().cpu()}

    def _chat(self, caption: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": self._question.replace(PLACE, caption)}]
        said: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return said


def reward_head(width: int) -> nn.Sequential:
    """[..., width] -> [..., 2]."""
    layers = (nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2))
    return nn.Sequential(*layers)


def _question(path: Path) -> str:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; put the question of HPSv3's program there, with {PLACE} in it")
    text = read_bytes(path, limit=INSTRUCTION_BYTES, name="INSTRUCTION_BYTES").decode(errors="replace")
    if text.count(PLACE) != 1 or text.count(REWARD) != 1:
        raise CheckpointError(f"{path} must hold {PLACE} and {REWARD} once each")
    return text


def _renamed(key: str) -> str:
    if key.startswith(("model.visual.", "model.language_model.")):
        return key
    for old, new in RENAMED:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
