"""Public weight files as they are published: read without running anything, unwrapped, loaded strictly.

Containers, told apart by content, not by name:

* safetensors;
* torch zip files (torch 1.6 and newer): a state dict, alone or under `model_state_dict`, `state_dict` or `model`.
  Lightning checkpoints pickle classes of their own; nothing is imported or called for them, inert stand-ins take
  their places;
* torch legacy files (before 1.6): the same, as long as they hold tensors and plain containers only.

Zip files and safetensors are mapped into memory, so optimizer states beside the weights are never read.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fpd_core.checkpoints import CheckpointError, load_strict
from fpd_core.mismatch import likely_cause
from fpd_core.untrusted import open_regular, shown

WRAPPERS = ("model_state_dict", "state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
_ZIP, _LEGACY = b"PK\x03\x04", pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


@runtime_checkable
class HasAliases(Protocol):
    """A network with tied weights that its public file stores under either name or both.

    Attributes:
        PUBLIC_ALIASES: name in the file -> name in the state dict.
    """

    PUBLIC_ALIASES: ClassVar[Mapping[str, str]]


@runtime_checkable
class HasIgnoredKeys(Protocol):
    """A network whose public file holds more than the network, such as the losses of its training.

    Attributes:
        IGNORED_PREFIXES: beginnings of the keys to leave out.
    """

    IGNORED_PREFIXES: ClassVar[tuple[str, ...]]


@runtime_checkable
class HasOtherNames(Protocol):
    """A network published in several namings."""

    @staticmethod
    def rename_public(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of any of the namings in the network's own; keys it does not know stay as they are."""
        ...


def load_public(module: nn.Module, path: Path) -> None:
    """Load a published file into `module`; every tensor of the module must be there and nothing else.

    Shapes do not reveal the number of attention heads: a file may load into a network with the wrong number and then
    give nonsense. The networks of fpd therefore fix it in their configs.

    Raises:
        CheckpointError: absent, damaged or another network's; names the keys and the likely cause.
    """
    state = read_public(path)
    if isinstance(module, HasOtherNames):
        state = module.rename_public(state)
    if isinstance(module, HasIgnoredKeys):
        state = {key: value for key, value in state.items() if not key.startswith(module.IGNORED_PREFIXES)}
    if isinstance(module, HasAliases):
        state = _resolve_aliases(state, module.PUBLIC_ALIASES, path)
    load_state(module, state, path)


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """`load_strict`, with the likely cause in the error. Raises CheckpointError: keys or shapes differ."""
    try:
        load_strict(module, state, str(path))
    except CheckpointError as error:
        cause = likely_cause(module.state_dict(), state)
        raise CheckpointError(f"{error}; {cause}" if cause else str(error)) from None


def read_public(path: Path) -> dict[str, Tensor]:
    """The state dict of a published file, on the CPU in the stored dtype, the prefixes of wrappers removed.

    Raises:
        CheckpointError: absent, truncated, of an unknown format, or without a state dict.
    """
    with open_regular(path, error=CheckpointError) as file:
        head = file.read(64)
    if head.startswith(_ZIP):
        return _state_dict(_read_zip(path), path)
    if head.startswith(_LEGACY):
        return _state_dict(_read_legacy(path), path)
    if head[8:9] == b"{":
        return _without_prefix(_read_safetensors(path))
    raise CheckpointError(f"{path} {_not_weights(head)}")


def _not_weights(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file it stands for; fetch that with `fpd-train weights pull`"
    if head.lstrip().startswith(b"<"):
        return "is a web page, not a weight file; download the raw file"
    return "is no weight file that fpd knows (safetensors, torch zip, torch legacy); it may be a broken download"


# What reading a damaged file can raise.
_DAMAGE = (
    *(pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, struct.error, OSError, EOFError, RuntimeError),
    *(AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError, MemoryError),
)


def _broken(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"{path} is damaged, probably a truncated download; delete it and fetch it again ({shown(reason)})"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(str(path))
    except _DAMAGE as error:
        raise _broken(path, error) from None


def _read_zip(path: Path) -> Any:
    try:
        _refuse_other_archives(path)
        return torch.load(path, map_location="cpu", mmap=True, weights_only=False, pickle_module=_TensorsOnly)
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise _broken(path, error) from None


def _refuse_other_archives(path: Path) -> None:
    # Asked of torch's own reader, because torch.load would run such a program.
    if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
        raise CheckpointError(f"{path} is a TorchScript program, not a weight file; take the safetensors file instead")
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            # A few kilobytes of them could become more than the memory.
            raise CheckpointError(f"{path} holds compressed records, which no torch weight file does")


def _read_legacy(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} is in the format of torch before 1.6 and holds more than tensors and plain containers, which fpd "
            "does not read; save its state dict again with a newer torch"
        ) from None
    except _DAMAGE as error:
        raise _broken(path, error) from None


class _Inert:
    """Stands for any class or function a pickle names: takes what it is given and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    def extend(self, values: object) -> None:
        pass

    def add(self, value: object) -> None:
        pass


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
}


class _TensorsOnly:
    """Takes the place of the pickle module in `torch.load`, which maps storages and rebuilds tensors itself.

    torch's own `weights_only=True` refuses whole files for one unknown class; here such classes become inert.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return _ALLOWED.get((module, name), _Inert)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), dict):
                content = content[wrapper]
                break
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no state dict")
    foreign = [
        shown(key) if isinstance(key, str) else f"a {type(key).__name__} as key"
        for key, value in content.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if foreign:
        some, wrappers = ", ".join(sorted(foreign)[:5]), ", ".join(WRAPPERS[:-1]) + f" or {WRAPPERS[-1]}"
        raise CheckpointError(f"{path} holds no state dict: {some}: not tensors, and no {wrappers} beside them")
    return _without_prefix({key: value.detach() for key, value in content.items()})


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in (*PREFIXES, *PREFIXES):  # either may stand before the other
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _resolve_aliases(state: dict[str, Tensor], aliases: Mapping[str, str], path: Path) -> dict[str, Tensor]:
    resolved = dict(state)
    for alias, name in aliases.items():
        if alias not in resolved:
            continue
        value = resolved.pop(alias)
        if name in resolved and not torch.equal(resolved[name], value):
            raise CheckpointError(f"{path}: {alias} and {name} are tied in the network but differ in the file")
        resolved[name] = value
    return resolved
