"""The method under a microscope: a teacher so small that every law is computed exactly, without sampling noise.

python ci/microscope.py fixed-points            # where refinement ends: total variation to the teacher, λ₂
python ci/microscope.py recipes                 # students trained by our own loss, their exact one-step laws
python ci/microscope.py stationarity            # what the drift still pushes where nothing should move
python ci/microscope.py gradients               # straight-through against the true gradient, all outcomes enumerated
python ci/microscope.py picture                 # docs/images/microscope.png
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Any, Self

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from fpd_core.conditioning import ClassCondition, Condition
from fpd_core.drift import drift_loss
from fpd_core.guidance import RefinementGuidance
from fpd_core.masking import masked_count
from fpd_core.objective import ObjectiveConfig, fixed_point_loss
from fpd_core.refine import RemaskConfig
from fpd_core.ste import soft_embedding, straight_through
from fpd_core.teachers.teacher import SamplerConfig, Teacher

CLASSES = 2
COUPLING, CLASS_COUPLING = 0.27, 0.25  # spread of shared and own couplings: one step of the teacher is half wrong
QUANTILES = 20_000  # of u, by which a law of r becomes weights of the numbers hidden


class LogMarginals(nn.Module):
    """log of every token's law for every pattern of visible and hidden ones, `table` [classes + 1, patterns, L, K]."""

    def __init__(self, table: Tensor, places: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)
        self.register_buffer("places", places)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        return self.table[labels, tokens @ self.places]


class ExactTeacher(Teacher):
    """Exact conditionals of two random pairwise laws over L tokens of K codes; unconditional is their mixture.

    Attributes:
        law: p(z|c) [classes + 1, K^L]; the last row is p(z).
        states: [K^L, L], in the order of `law`; `patterns` [(K + 1)^L, L] with the mask id where hidden.
    """

    def __init__(self, length: int = 6, codes: int = 2, seed: int = 0) -> None:
        super().__init__()
        self.mask_id, self.seq_len, self.num_classes, self.image_size = codes, length, CLASSES, length
        self.sampler, self.refine_guidance, self.codebook = SamplerConfig(guidance_scale=1.5), 1.0, torch.eye(codes)
        self.states = torch.cartesian_prod(*[torch.arange(codes)] * length)
        self.patterns = torch.cartesian_prod(*[torch.arange(codes + 1)] * length)
        self.law = torch.stack([*_random_laws(self.states, codes, seed), torch.zeros(len(self.states)).double()])
        self.law[-1] = self.law[:-1].mean(0)
        marginals = self.law.view(-1, *[codes] * length)
        for dim in range(1, length + 1):
            marginals = torch.cat([marginals, marginals.sum(dim, keepdim=True)], dim)
        places = (codes + 1) ** torch.arange(length - 1, -1, -1)
        self.network = LogMarginals(self._table(marginals.flatten(1).log(), places), places).requires_grad_(False)

    def _table(self, log_marginals: Tensor, places: Tensor) -> Tensor:
        """A token's law given the rest is the joint with that token filled in, up to a constant."""
        index = self.patterns @ places
        filled = index[:, None] - self.patterns * places  # [patterns, L], position i set to code 0
        codes = torch.arange(self.mask_id) * places[:, None]
        return log_marginals[:, filled[..., None] + codes]

    @classmethod
    def load(cls, config: Any) -> Self:
        return cls.from_architecture(config)

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Self:
        return cls(architecture["length"], architecture["codes"])

    def architecture(self) -> dict[str, Any]:
        return {"name": "exact", "length": self.seq_len, "codes": self.mask_id}

    def condition(self, wanted: Any) -> Condition:
        return ClassCondition(torch.as_tensor(wanted).long().flatten())

    def null_condition(self, condition: Condition) -> Condition:
        return ClassCondition(torch.full((len(condition),), CLASSES))

    def logits(
        self,
        tokens: Tensor,
        condition: Condition,
        *,
        network: Callable[..., Tensor] | None = None,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        assert isinstance(condition, ClassCondition)
        return (network or self.network)(tokens, condition.labels)

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        return embeddings


class IdentityLift:
    """One cell whose features are the one-hot tokens themselves."""

    def __init__(self, teacher: ExactTeacher) -> None:
        self.decode = teacher.decode

    def features(self, images: Tensor) -> list[Tensor]:
        return [images.flatten(1)[:, None]]

    def __call__(self, embeddings: Tensor, condition: Condition) -> list[Tensor]:
        return self.features(self.decode(embeddings, condition))


def _random_laws(states: Tensor, codes: int, seed: int) -> Iterator[Tensor]:
    """p(z|c) of each class: random couplings of every pair of tokens, most of them shared by the classes."""
    generator, length = torch.Generator().manual_seed(seed), states.shape[1]
    hot = (nn.functional.one_hot(states, codes).double() - 1 / codes).flatten(1)
    upper = torch.ones(length, length).triu(1)[:, None, :, None]

    def energy(spread: float) -> Tensor:
        pairs = torch.randn(length, codes, length, codes, generator=generator, dtype=torch.float64) * upper
        return torch.einsum("ni,ij,nj->n", hot, pairs.reshape(hot.shape[1], -1), hot) * spread * codes**2 / 2

    shared = energy(COUPLING)
    for _ in range(CLASSES):
        yield (shared + energy(CLASS_COUPLING)).softmax(0)


# --- laws ---


def total_variation(a: Tensor, b: Tensor) -> float:
    return 0.5 * float((a - b).abs().sum())


def products(probabilities: Tensor, states: Tensor) -> Tensor:
    """Laws over all states [P, N] of tokens drawn independently from `probabilities` [P, L, K]."""
    law = torch.ones(len(probabilities), len(states), dtype=torch.float64)
    for place in range(states.shape[1]):
        law = law * probabilities[:, place][:, states[:, place]]
    return law


@lru_cache(maxsize=256)
def refills(teacher: ExactTeacher, label: int, passes: int, guidance: float) -> Tensor:
    """[patterns, N]: law of the tokens after `refine` has filled each pattern in `passes` of random order."""
    patterns, codes = teacher.patterns, teacher.mask_id
    condition = teacher.condition([label] * len(patterns))
    drawn = teacher.guided_logits(patterns, condition, guidance).softmax(-1)
    is_hidden = patterns == codes
    visible = nn.functional.one_hot(patterns, codes + 1)[..., :codes].double()
    law = products(torch.where(is_hidden[..., None], drawn, visible), teacher.states)
    places = teacher.network.places
    for left in range(2, passes + 1):
        found = torch.zeros_like(law)
        kept = (is_hidden.sum(1) + left - 1) // left
        found[kept == 0] = law[kept == 0]
        for count in range(1, teacher.seq_len + 1):
            for group in combinations(range(teacher.seq_len), count):
                rows = ((kept == count) & is_hidden[:, list(group)].all(1)).nonzero()[:, 0]
                groups = _choose(is_hidden[rows].sum(1), count)
                for values in product(range(codes), repeat=count):
                    weight, shift = torch.ones(len(rows)).double(), 0
                    for place, code in zip(group, values, strict=True):
                        weight, shift = weight * drawn[rows, place, code], shift + (code - codes) * int(places[place])
                    index = patterns[rows] @ places + shift
                    found[rows] += (weight / groups)[:, None] * law[index]
        law = found
    return law


def _choose(n: Tensor, k: int) -> Tensor:
    """Binomial coefficients of n over k."""
    n = n.double()
    return torch.stack([(n - i) / (i + 1) for i in range(k)]).prod(0).round()


@dataclass(frozen=True)
class Hidden:
    """π on a short sequence: `weights` [L] of n = 1..L tokens hidden, and g at each n."""

    weights: Tensor
    guidance: tuple[float, ...]


def hidden(teacher: ExactTeacher, weights: Sequence[float], guidance: float = 1.0) -> Hidden:
    """The law with the given weights of n = 1..L and one g."""
    tensor = torch.tensor(weights, dtype=torch.float64)
    return Hidden(tensor / tensor.sum(), (guidance,) * teacher.seq_len)


def hidden_by(
    teacher: ExactTeacher, remask: RemaskConfig, guidance: RefinementGuidance | None, progress: float = 0.0
) -> Hidden:
    """What `fixed_point_loss` draws: π of a configuration; a g that depends on r is taken at the mean r of each n."""
    u = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    ratio = remask.at_progress(u, progress)
    counts = masked_count(teacher.seq_len, ratio)
    g = torch.as_tensor(teacher.refinement(ratio, guidance, None)[0]).double().expand(QUANTILES)
    weights, means = torch.zeros(teacher.seq_len).double(), []
    for n in range(1, teacher.seq_len + 1):
        weights[n - 1] = (counts == n).double().mean()
        means.append(float(g[counts == n].mean()) if (counts == n).any() else 1.0)
    return Hidden(weights, tuple(means))


def transition(teacher: ExactTeacher, label: int, law: Hidden, passes: int = 1) -> Tensor:
    """[N, N]: probability that `refine` turns the row's tokens into the column's."""
    states, length = teacher.states, teacher.seq_len
    matrix = torch.zeros(len(states), len(states), dtype=torch.float64)
    for n, (weight, g) in enumerate(zip(law.weights.tolist(), law.guidance, strict=True), start=1):
        if weight == 0:
            continue
        filled = refills(teacher, label, passes, g)
        groups = list(combinations(range(length), n))
        for group in groups:
            masked = states.clone()
            masked[:, list(group)] = teacher.mask_id
            matrix += weight / len(groups) * filled[masked @ teacher.network.places]
    return matrix


def stationary(matrix: Tensor) -> Tensor:
    """The law that a transition matrix leaves unchanged."""
    system = torch.cat([matrix.T - torch.eye(len(matrix)), torch.ones(1, len(matrix))])
    right = torch.zeros(len(matrix) + 1, dtype=torch.float64)
    right[-1] = 1
    return torch.linalg.lstsq(system, right[:, None]).solution[:, 0]


def second_eigenvalue(matrix: Tensor) -> float:
    """|λ₂|: how much of a wrong weight survives one refinement."""
    rest, log_norm = matrix - stationary(matrix), 0.0  # what is left of it without the first eigenvalue
    for squaring in range(1, 13):
        rest = rest @ rest
        norm = float(rest.norm())
        if norm < 1e-12:  # of a matrix whose squares vanish, only rounding is left
            return 0.0
        rest, log_norm = rest / norm, log_norm + math.log(norm) / 2**squaring
    return math.exp(log_norm)


def tilted(teacher: ExactTeacher, label: int, guidance: float) -> Tensor:
    """p(z|c)^g p(z)^(1-g), normalised."""
    logs = teacher.law.log()
    return (guidance * logs[label] + (1 - guidance) * logs[-1]).softmax(0)


def sampled(teacher: ExactTeacher, label: int, steps: int, guidance: float = 1.0) -> Tensor:
    """The law of the teacher's own sampler, in random order from nothing visible."""
    return refills(teacher, label, steps, guidance)[-1]  # the last pattern hides all


# --- the student ---


def one_step_law(student: nn.Module, teacher: ExactTeacher, label: int, init_mask_ratio: float) -> Tensor:
    """The student's exact law: a mixture over all z_init of independent tokens."""
    count = int(masked_count(teacher.seq_len, torch.tensor(init_mask_ratio)))
    z_init = teacher.patterns[(teacher.patterns == teacher.mask_id).sum(1) == count]
    with torch.no_grad():
        logits = teacher.logits(z_init, teacher.condition([label] * len(z_init)), network=student)
    return products(logits.softmax(-1), teacher.states).mean(0)


def distilled(
    teacher: ExactTeacher, config: ObjectiveConfig, *, drafts: int, batch: int, steps: int, seed: int, lr: float = 0.05
) -> nn.Module:
    """A copy of the teacher's table after `steps` of Adam, falling to zero, on our own loss."""
    student, lift = deepcopy(teacher.network).requires_grad_(True), IdentityLift(teacher)
    optimizer = torch.optim.Adam(student.parameters(), lr=lr, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        labels = torch.randint(CLASSES, (batch // drafts,), generator=generator)
        condition = teacher.condition(labels).repeat_interleave(drafts)
        result = fixed_point_loss(
            student,
            teacher,
            lift,
            condition,
            config,
            progress=step / steps,
            generator=generator,
        )
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        schedule.step()
    return student


# --- the loss at rest ---

FORMS: list[dict[str, Any]] = [
    {"normalisation": normalisation, "weighting": weighting, "own_target": own_target}
    for normalisation, weighting in (
        ("joint", "plain"),
        ("joint", "cross"),
        ("corrected", "plain"),
        ("corrected", "cross"),
        ("sharp", "plain"),
    )
    for own_target in ("keep", "mask")
]


def at_rest(correlation: float, batches: int, *, batch: int = 32, dim: int = 64) -> tuple[Tensor, Tensor]:
    """X ~ N(0, I) and Y = ρX + sqrt(1 - ρ²) N, [B, batches, D]: a student at its fixed point and its refinements.

    The batches lie side by side as the cells of one problem, which do not interact.
    """
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, batch, batches, dim, generator=generator, dtype=torch.float64)
    return x, correlation * x + math.sqrt(1 - correlation**2) * noise


def outward(x: Tensor, y: Tensor, bandwidth: float, form: Mapping[str, Any]) -> float:
    """Mean over batches of the cosine between the force and X: 1 is expansion, -1 contraction, 0 is right."""
    force = -drift_loss(x, y, bandwidths=(bandwidth,), **form).gradient
    return float(torch.cosine_similarity(force.transpose(0, 1).flatten(1), x.transpose(0, 1).flatten(1), 1).mean())


# --- the gradient ---


def gradients(teacher: ExactTeacher, logits: Tensor, config: ObjectiveConfig, batch: int) -> dict[str, Tensor]:
    """Gradients to `logits` [L, K] of the expected loss of a batch that shares them, every outcome enumerated.

    "value" is the gradient of Σ_outcomes p(outcome) E[loss | outcome], stop-gradients and all: what a score-function
    estimator would follow. "fixed point" is that of KL(fixed point, student). The other two are the estimators' means.
    """
    chain = transition(teacher, 0, hidden_by(teacher, config.remask, config.guidance_scale), config.remask.passes)
    names = ("value", "fixed point", "straight_through", "soft")
    leaves = {name: logits.clone().double().requires_grad_(True) for name in names}
    laws = {name: products(leaf.softmax(-1)[None], teacher.states)[0] for name, leaf in leaves.items()}
    hot, codebook = nn.functional.one_hot(teacher.states, teacher.mask_id).double(), teacher.codebook.double()
    law, pairs = laws["value"].detach(), list(product(range(len(teacher.states)), repeat=batch))
    totals = {"value": torch.zeros(()).double(), "fixed point": -(stationary(chain) * laws["fixed point"].log()).sum()}

    def loss_and_pull(embeddings: Tensor, targets: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The loss and its gradient to the embeddings [B, L, d]."""
        leaf = embeddings.detach().requires_grad_(True)
        loss = drift_loss(
            leaf.flatten(1)[:, None],
            hot[list(targets)].flatten(1)[:, None],
            bandwidths=config.bandwidths,
            weighting=config.weighting,
            own_target=config.own_target,
            normalisation=config.normalisation,
        ).loss
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    totals["straight_through"] = torch.zeros(()).double()
    for draft in pairs:
        tokens, probability = teacher.states[list(draft)], law[list(draft)].prod()
        hard = straight_through(leaves["straight_through"].expand(batch, -1, -1), tokens, codebook)
        weights = [probability * chain[list(draft), list(targets)].prod() for targets in pairs]
        found = [loss_and_pull(hard, targets) for targets in pairs]
        value = sum(weight * loss for weight, (loss, _) in zip(weights, found, strict=True))
        pull = sum(weight * pull for weight, (_, pull) in zip(weights, found, strict=True))
        totals["value"] = totals["value"] + value * laws["value"].log()[list(draft)].sum()
        totals["straight_through"] = totals["straight_through"] + (pull * hard).sum()
    soft, target_law = soft_embedding(leaves["soft"].expand(batch, -1, -1), codebook), law @ chain
    pull = sum(target_law[list(targets)].prod() * loss_and_pull(soft, targets)[1] for targets in pairs)
    totals["soft"] = (pull * soft).sum()
    return {name: torch.autograd.grad(totals[name], leaves[name])[0] for name in names}


# --- tables ---

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
Length = Annotated[int, typer.Option(min=2, max=8, help="L, tokens of a sequence.")]
Codes = Annotated[int, typer.Option(min=2, max=4, help="K, codes.")]
Tables = Annotated[int, typer.Option(min=1, help="Random teachers to average over.")]


def laws_of_n(length: int) -> dict[str, list[float]]:
    """Every n alone, n uniform on 1..m, by name."""
    alone = {f"n = {n}": [float(i == n) for i in range(1, length + 1)] for n in range(1, length + 1)}
    upto = {f"n uniform on 1..{m}": [float(i <= m) for i in range(1, length + 1)] for m in range(length, 1, -1)}
    return alone | upto


def end_of(teacher: ExactTeacher, law: Hidden, passes: int) -> tuple[float, float]:
    """(TV of the fixed point to the teacher, λ₂), for class 0."""
    matrix = transition(teacher, 0, law, passes)
    return total_variation(stationary(matrix), teacher.law[0]), second_eigenvalue(matrix)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@app.command()
def fixed_points(length: Length = 6, codes: Codes = 2, tables: Tables = 5) -> None:
    """Where refinement ends: total variation to the teacher, and λ₂, by the number of tokens hidden and passes."""
    teachers = [ExactTeacher(length, codes, seed) for seed in range(tables)]
    table = Table("tokens hidden", "TV, 1 pass", "2 passes", "3 passes", "4 passes", "λ₂, 1 pass")
    for name, weights in track(laws_of_n(length).items(), console=Console(stderr=True), transient=True):
        ends = [[end_of(t, hidden(t, weights), k) for t in teachers] for k in (1, 2, 3, 4)]
        numbers = [mean([tv for tv, _ in row]) for row in ends] + [mean([second for _, second in ends[0]])]
        table.add_row(name, *(f"{number:.3f}" for number in numbers))
    for steps in range(1, length + 1):
        tv = mean([total_variation(sampled(t, 0, steps), t.law[0]) for t in teachers])
        table.add_row(f"the teacher's sampler, {steps} steps", f"{tv:.3f}", "", "", "", "")
    Console().print(table)
    Console().print(_guidance_table(teachers))


def _guidance_table(teachers: list[ExactTeacher]) -> Table:
    table = Table(
        "g", "one token: TV to p(z|c)^g p(z)^(1-g)", "sampler's TV to it", "uniform n: best g for the sampler"
    )
    grid = [1 + 0.5 * i for i in range(15)]
    length = teachers[0].seq_len
    ends = {g: [stationary(transition(t, 0, hidden(t, [1.0] * length, g))) for t in teachers] for g in grid}
    for g in (1.5, 2.0, 3.0):
        one = [stationary(transition(t, 0, hidden(t, [1.0] + [0.0] * (length - 1), g))) for t in teachers]
        goals = [sampled(t, 0, length, g) for t in teachers]
        tilts = [tilted(t, 0, g) for t in teachers]
        distance = {at: mean([total_variation(a, b) for a, b in zip(ends[at], goals, strict=True)]) for at in grid}
        best = min(distance, key=distance.__getitem__)
        pairs = [mean([total_variation(a, b) for a, b in zip(some, tilts, strict=True)]) for some in (one, goals)]
        table.add_row(f"{g:g}", f"{pairs[0]:.1e}", f"{pairs[1]:.3f}", f"{best:g} (TV {distance[best]:.3f})")
    return table


@dataclass(frozen=True)
class Recipe:
    """One change to the objective: its fields, and the drafts of a condition."""

    objective: dict[str, Any]
    drafts: int = 16


MASKED = {"weighting": "cross", "own_target": "mask", "guidance_scale": 1.0}
RECIPES = {
    "plain, own target kept, 1 draft (the paper)": Recipe({"guidance_scale": 1.0}, 1),
    "plain, kept": Recipe({"guidance_scale": 1.0}),
    "cross, kept": Recipe(MASKED | {"own_target": "keep"}),
    "plain, masked": Recipe(MASKED | {"weighting": "plain"}),
    "cross, masked (base of the rows below)": Recipe(MASKED),
    "4 drafts": Recipe(MASKED, 4),
    "64 drafts": Recipe(MASKED, 64),
    "2 passes": Recipe(MASKED | {"remask": {"passes": 2}}),
    "4 passes": Recipe(MASKED | {"remask": {"passes": 4}}),
    "π uniform": Recipe(MASKED | {"remask": {"schedule": "linear"}}),
    "π to r ≤ 0.35 from half of the run": Recipe(MASKED | {"remask": {"hold": 0.5, "end": {"clamp": (0.05, 0.35)}}}),
    "the same, 2 passes": Recipe(MASKED | {"remask": {"passes": 2, "hold": 0.5, "end": {"clamp": (0.05, 0.35)}}}),
    "2 refinements": Recipe(MASKED | {"refinements": 2}),
    "4 refinements": Recipe(MASKED | {"refinements": 4}),
    "r ≤ 0.35": Recipe(MASKED | {"remask": {"clamp": (0.05, 0.35)}}),
    "r ≤ 0.35, 4 refinements": Recipe(MASKED | {"refinements": 4, "remask": {"clamp": (0.05, 0.35)}}),
    "r ≤ 0.35, 8 refinements": Recipe(MASKED | {"refinements": 8, "remask": {"clamp": (0.05, 0.35)}}),
    "g = 1.5": Recipe(MASKED | {"guidance_scale": 1.5}),
    "g from 1 to 1.5 with r": Recipe(MASKED | {"guidance_scale": {"at_zero": 1.0, "at_one": 1.5}}),
    "h = 0.2 alone": Recipe(MASKED | {"bandwidths": (0.2,)}),
    "h = 0.2, 0.5, 1": Recipe(MASKED | {"bandwidths": (0.2, 0.5, 1.0)}),
    "corrected": Recipe(MASKED | {"normalisation": "corrected"}),
    "plain, corrected": Recipe(MASKED | {"weighting": "plain", "normalisation": "corrected"}),
    "plain, sharp": Recipe(MASKED | {"weighting": "plain", "normalisation": "sharp"}),
    "plain, sharp, own target kept": Recipe({"guidance_scale": 1.0, "normalisation": "sharp"}),
    "soft estimator": Recipe(MASKED | {"estimator": "soft"}),
}


@app.command()
def recipes(
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 200,
    seeds: Annotated[int, typer.Option(help="Training seeds, each with a teacher of its own.")] = 3,
    batch: Annotated[int, typer.Option(help="Samples per step.")] = 64,
    length: Length = 6,
    codes: Codes = 2,
    init_mask_ratio: Annotated[float, typer.Option(help="r_init.")] = 0.5,
    only: Annotated[str, typer.Option(help="Rows whose name holds this.")] = "",
) -> None:
    """Students trained by our own loss: the exact TV of their one-step law to the teacher and to their fixed point."""
    table = Table("recipe", "TV to the teacher", "sd", "TV to its fixed point", "fixed point to the teacher")
    teachers = [ExactTeacher(length, codes, seed) for seed in range(seeds)]
    start = [total_variation(one_step_law(t.network, t, 0, init_mask_ratio), t.law[0]) for t in teachers]
    table.add_row("before training", f"{mean(start):.3f}", "", "", "")
    chosen = {name: recipe for name, recipe in RECIPES.items() if only in name}
    for name, recipe in track(chosen.items(), console=Console(stderr=True), transient=True):
        config = ObjectiveConfig.model_validate(recipe.objective | {"init_mask_ratio": init_mask_ratio})
        rows = []
        for seed, teacher in enumerate(teachers):
            student = distilled(teacher, config, drafts=recipe.drafts, batch=batch, steps=steps, seed=seed)
            rows.append(mean_distances(student, teacher, config))
        columns = torch.tensor(rows).T
        deviation = float(columns[0].std(correction=0))
        table.add_row(name, f"{columns[0].mean():.3f}", f"{deviation:.3f}", *(f"{c.mean():.3f}" for c in columns[1:]))
    Console().print(table)


def mean_distances(student: nn.Module, teacher: ExactTeacher, config: ObjectiveConfig) -> list[float]:
    """TV of student to teacher, student to fixed point (π of the run's end), fixed point to teacher, over classes."""
    law, rows = hidden_by(teacher, config.remask, config.guidance_scale, progress=1.0), []
    for label in range(CLASSES):
        end = stationary(transition(teacher, label, law, config.remask.passes))
        own = one_step_law(student, teacher, label, config.init_mask_ratio)
        pairs = ((own, teacher.law[label]), (own, end), (end, teacher.law[label]))
        rows.append([total_variation(a, b) for a, b in pairs])
    return torch.tensor(rows).mean(0).tolist()


@app.command()
def stationarity(
    batches: Annotated[int, typer.Option(min=1, help="Batches of 32 samples in 64 dimensions to average over.")] = 100,
) -> None:
    """The share of the drift's force that points outward where the right drift is zero, by bandwidth."""
    bandwidths, correlations = ObjectiveConfig().bandwidths, (0.5, 0.9)
    heads = [f"ρ = {correlation:g}: h = {', '.join(f'{h:g}' for h in bandwidths)}" for correlation in correlations]
    table, pairs = (
        Table("normalisation", "weighting", "own target", *heads),
        [at_rest(c, batches) for c in correlations],
    )
    for form in FORMS:
        cells = [" / ".join(f"{outward(*pair, h, form):+.2f}" for h in bandwidths) for pair in pairs]
        table.add_row(*form.values(), *cells)
    Console().print(table)


@app.command("gradients")
def gradient_table(
    steps: Annotated[int, typer.Option(help="Optimizer steps of the trained student.")] = 300,
) -> None:
    """Means of the estimators at two tokens of three codes, batches of two: cosine and norm ratio to two references.

    The references: the gradient of the expected loss, and that of the divergence from the fixed point.
    """
    table = Table("loss", "student", "estimator", "expected loss", "divergence from the fixed point")
    teacher = ExactTeacher(2, 3)
    generator = torch.Generator().manual_seed(0)
    for weighting, own in (("plain", "keep"), ("cross", "keep"), ("cross", "mask")):
        config = ObjectiveConfig(weighting=weighting, own_target=own, guidance_scale=1.0, init_mask_ratio=1.0)
        trained = distilled(teacher, config, drafts=16, batch=64, steps=steps, seed=0)
        everything = torch.full((1, 2), teacher.mask_id)
        students = {
            "random": torch.randn(2, 3, generator=generator, dtype=torch.float64),
            "trained": teacher.logits(everything, teacher.condition([0]), network=trained)[0].detach(),
        }
        for name, logits in students.items():
            found = {key: value.flatten() for key, value in gradients(teacher, logits, config, 2).items()}
            for estimator in ("straight_through", "soft"):
                pairs = [(found[estimator], found[reference]) for reference in ("value", "fixed point")]
                cells = [f"{torch.cosine_similarity(a, b, 0):.2f}, {a.norm() / b.norm():.2f}" for a, b in pairs]
                table.add_row(f"{weighting}, {own}", name, estimator, *cells)
    Console().print(table)


@app.command()
def picture(
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("docs/images/microscope.png"),
    tables: Tables = 5,
) -> None:
    """The fixed point's error against teacher forwards per refinement, one line per law of the tokens hidden."""
    import matplotlib.pyplot as plt

    teachers, forwards = [ExactTeacher(seed=seed) for seed in range(tables)], range(1, 7)
    figure, axes = plt.subplots(figsize=(6, 3.6), dpi=110)
    for top in (6, 4, 3, 2):
        weights = [float(n <= top) for n in range(1, 7)]
        errors = [mean([end_of(t, hidden(t, weights), k)[0] for t in teachers]) for k in forwards]
        axes.plot(forwards, errors, marker="o", label=f"fixed point, n uniform on 1..{top} of 6")
    errors = [mean([total_variation(sampled(t, 0, k), t.law[0]) for t in teachers]) for k in forwards]
    axes.plot(forwards, errors, "k--", label="the teacher's sampler")
    axes.set(xlabel="teacher forwards per refinement (of the sampler: steps)", ylabel="total variation to the teacher")
    axes.legend()
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    app()
