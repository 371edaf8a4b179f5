"""The network that a distillation trains: a copy of the teacher's, whole or with low-rank adapters."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from torch import nn

from fpd_core.config import nearest
from fpd_core.teachers.teacher import Teacher
from fpd_train.methods.adapter import AdapterConfig, adapted, merged
from fpd_train.methods.interface import NetworkSettings
from fpd_train.shared_copy import shared_copy


def build_student(teacher: Teacher, frozen: Sequence[str] | None, adapter: AdapterConfig | None) -> nn.Module:
    """The teacher's network, ready to be trained, without dropout.

    Args:
        frozen: parts that keep the teacher's weights; None is all that the family names.
        adapter: what is trained in place of the weights, which then lie in the teacher's memory.

    Raises:
        ConfigError: the family has no such part, or the adapter does not fit.
    """
    student: Any = deepcopy(teacher.network) if adapter is None else shared_copy(teacher.network)
    student.requires_grad_(True)
    _switch_off_dropout(student)
    groups: dict[str, list[nn.Parameter]] = student.parameter_groups()
    for name in groups if frozen is None else frozen:
        if name not in groups:
            raise nearest(name, list(groups), "part of this family to freeze")
        for parameter in groups[name]:
            parameter.requires_grad_(False)
    network: nn.Module = student if adapter is None else adapted(student, adapter)
    return network


def settings_of(adapter: AdapterConfig | None) -> NetworkSettings:
    """How such a student is trained: with an adapter, nothing else of it is saved."""
    return NetworkSettings(saves_frozen=adapter is None)


def finished(student: nn.Module, teacher: Teacher, adapter: AdapterConfig | None) -> nn.Module:
    """The student as a network of the family, for export."""
    return student if adapter is None else merged(student, teacher.network)


def _switch_off_dropout(module: nn.Module) -> None:
    """The student sees its own samples as data; noise inside the network would blur what the drift compares."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
