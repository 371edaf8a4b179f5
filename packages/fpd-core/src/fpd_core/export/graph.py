"""What leaves Python: a student from noise to pixels, a teacher's forward pass, a decoder; tensors in, tensors out.

No graph draws a random number. Noise comes in as uniform numbers: equal noise gives equal tokens in any runtime.
"""

import torch
from torch import Tensor, nn

from fpd_core.conditioning import ClassCondition, Condition
from fpd_core.config import ConfigError
from fpd_core.generator import DrawsInputs, Generator
from fpd_core.masking import masked_count
from fpd_core.teachers import Teacher
from fpd_core.teachers.text_conditional import TextConditionalTeacher

PLACES, CODES, DRAWS = range(3)
"""Rows of the noise: which tokens z_init hides, the random codes elsewhere, the draw of eq. 4."""


def start_tokens(places: Tensor, codes: Tensor, hidden: int, codebook_size: int, mask_id: int) -> Tensor:
    """z_init from uniform numbers: the `hidden` lowest places are masked, the first of equal ones first.

    Args:
        places, codes: [B, L] in [0, 1).
        hidden: round(r_init L), as `masking.masked_count` has it.

    Returns:
        [B, L] int64: `mask_id`, or floor(K u).
    """
    order = torch.arange(places.shape[1], device=places.device)
    # Comparisons in place of a sort: no runtime may choose between equal numbers.
    is_before = (places[:, None] < places[..., None]) | (
        (places[:, None] == places[..., None]) & (order[None] < order[:, None])
    )
    is_hidden = is_before.float().sum(-1) < hidden
    # u <= 1 - 2^-24 in float32, and such a u times K is below K, rounded too.
    random_codes = (codes.float() * codebook_size).long()
    return torch.where(is_hidden, mask_id, random_codes)


def draw_tokens(logits: Tensor, uniform: Tensor) -> Tensor:
    """Categorical draws by inversion (eq. 4): the first code whose cumulative probability passes the uniform number.

    Args:
        logits: [B, L, K] float32.
        uniform: [B, L] in [0, 1).

    Returns:
        [B, L] int64 in [0, K), never a code without mass.
    """
    cumulative = logits.float().softmax(-1).cumsum(-1)
    # Below the last one, as rounded products with u < 1 are: a code without mass at the end is out of reach.
    level = uniform[..., None].float() * cumulative[..., -1:]
    return (cumulative <= level).float().sum(-1).long()


class Graph(nn.Module):
    """Base of the graphs of a family.

    Attributes:
        wanted: name of the input that says what is drawn: `labels` [B] int64, where `num_classes` is no class, or
            `words` [B, T] int64 token ids of the text tower.
        inputs: names of all inputs, in order.
        outputs: names of the outputs, in order.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    null_words: Tensor

    def __init__(self, model: Teacher) -> None:
        super().__init__()
        self.model = model
        self.wanted = "labels" if model.num_classes is not None else "words"
        if isinstance(model, TextConditionalTeacher):
            self.register_buffer("null_words", model.text.tokenize([""]).to(model.device), persistent=False)

    def condition(self, wanted: Tensor) -> Condition:
        """The condition that `wanted` stands for."""
        if isinstance(self.model, TextConditionalTeacher):
            return self.model.read(wanted)
        return ClassCondition(wanted)

    def null(self, wanted: Tensor) -> Condition:
        """The unconditional input for the same batch."""
        if self.model.num_classes is None:
            return self.condition(self.null_words.expand(wanted.shape[0], -1))
        return ClassCondition(torch.full_like(wanted, self.model.num_classes))

    def pixels(self, tokens: Tensor, condition: Condition) -> Tensor:
        """[B, L] codes -> [B, 3, H, W] float32 in [0, 1]."""
        return self.model.decode(self.model.codebook[tokens], condition).float().clamp(0, 1)

    def _wanted_examples(self, batch: int) -> Tensor:
        """Some `wanted` of this size, to trace with."""
        if self.model.num_classes is not None:
            return torch.zeros(batch, dtype=torch.int64, device=self.model.device)
        return self.null_words.repeat(batch, 1)

    def _token_examples(self, batch: int) -> Tensor:
        return torch.zeros(batch, self.model.seq_len, dtype=torch.int64, device=self.model.device)

    def examples(self, batch: int) -> tuple[Tensor, ...]:
        """Inputs of the right shapes and types."""
        raise NotImplementedError


class OneStep(Graph):
    """A one-step student: noise and condition -> pixels and tokens.

    Raises:
        ConfigError: it takes more steps than one, or random numbers other than z_init and the draw.
    """

    outputs = ("images", "tokens")

    def __init__(self, generator: Generator) -> None:
        how = generator.generation
        if how.steps != 1 or how.sampler != "refill":
            raise ConfigError(f"one graph is one step; this student takes {how.steps} of the sampler {how.sampler!r}")
        if how.embedding_noise > 0 or self._draws(generator):
            raise ConfigError("this student's network reads Gaussian noise of its own, which no exported graph takes")
        super().__init__(generator.model)
        self.how = how
        # Computed here, not in the trace, and on the CPU for a model without memory.
        ratio = torch.tensor(how.init_mask_ratio, dtype=torch.float64, device="cpu")
        self.hidden = int(masked_count(self.model.seq_len, ratio))
        self.inputs = (self.wanted, "noise")

    @staticmethod
    def _draws(generator: Generator) -> bool:
        network = generator.model.network
        return isinstance(network, DrawsInputs) and bool(network.draw_inputs(1, None))

    def forward(self, wanted: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See the class.

        Args:
            wanted: labels [B] or token ids [B, T].
            noise: [B, 3, L] float32, uniform in [0, 1); rows as in `PLACES`, `CODES`, `DRAWS`.

        Returns:
            (images [B, 3, H, W] float32 in [0, 1], tokens [B, L] int64).
        """
        model, how = self.model, self.how
        condition = self.condition(wanted)
        start = start_tokens(noise[:, PLACES], noise[:, CODES], self.hidden, model.codebook_size, model.mask_id)
        null = None if how.guidance_scale == 1 else self.null(wanted)
        logits = model.guided_logits(start, condition, how.guidance_scale, null)
        tokens = draw_tokens(logits / how.temperature, noise[:, DRAWS])
        return self.pixels(tokens, condition), tokens

    def examples(self, batch: int) -> tuple[Tensor, ...]:
        noise = torch.full((batch, 3, self.model.seq_len), 0.5, device=self.model.device)
        return self._wanted_examples(batch), noise


class Denoiser(Graph):
    """One guided forward pass of a teacher; the loop of its N steps stays outside."""

    outputs = ("logits",)

    def __init__(self, model: Teacher) -> None:
        super().__init__(model)
        self.inputs = (self.wanted, "tokens", "guidance")

    def forward(self, wanted: Tensor, tokens: Tensor, guidance: Tensor) -> Tensor:
        """Labels or token ids, tokens [B, L] and g [B] of u + g (c - u) -> logits [B, L, K] float32."""
        return self.model.guided_logits(tokens, self.condition(wanted), guidance, self.null(wanted))

    def examples(self, batch: int) -> tuple[Tensor, ...]:
        guidance = torch.ones(batch, device=self.model.device)
        return self._wanted_examples(batch), self._token_examples(batch), guidance


class Decoder(Graph):
    """Tokens -> pixels, with the caption where the family's decoder reads it."""

    outputs = ("images",)

    def __init__(self, model: Teacher) -> None:
        super().__init__(model)
        self.inputs = (self.wanted, "tokens")

    def forward(self, wanted: Tensor, tokens: Tensor) -> Tensor:
        """Labels or token ids and tokens [B, L] -> images [B, 3, H, W] float32 in [0, 1]."""
        return self.pixels(tokens, self.condition(wanted))

    def examples(self, batch: int) -> tuple[Tensor, ...]:
        return self._wanted_examples(batch), self._token_examples(batch)
