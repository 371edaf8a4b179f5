"""What can be trained. A method is one file with a config section and one line in `METHODS`, or a package with an entry
point."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fpd_core.config import Config
from fpd_core.plugins import Registry
from fpd_core.sections import Sections, section_pair
from fpd_train.methods.aligned_decoder import AlignedDecoderConfig, AlignedDecoderMethod
from fpd_train.methods.di4c import Di4cConfig, Di4cMethod
from fpd_train.methods.dimo import DimoConfig, DimoMethod
from fpd_train.methods.dmmd import DmmdConfig, DmmdMethod
from fpd_train.methods.fpd import FpdConfig, FpdMethod
from fpd_train.methods.interface import Method, Parts
from fpd_train.methods.redi import RediConfig, RediMethod
from fpd_train.methods.sdtt import SdttConfig, SdttMethod
from fpd_train.methods.soft_dimo import SoftDimoConfig, SoftDimoMethod
from fpd_train.pretrain.classifier import ClassifierMethod, ClassifierTraining
from fpd_train.pretrain.masked_model import MaskedModelMethod, MaskedModelTraining
from fpd_train.pretrain.masked_text_model import MaskedTextModelMethod, MaskedTextModelTraining
from fpd_train.pretrain.patch_tokenizer import PatchTokenizerMethod, PatchTokenizerTraining
from fpd_train.pretrain.scene_judge import SceneJudgeMethod, SceneJudgeTraining
from fpd_train.pretrain.scene_text import SceneTextMethod, SceneTextTraining
from fpd_train.pretrain.tokenizer import TokenizerMethod, TokenizerTraining

_OWN: dict[str, tuple[type[Config], Callable[[Any, Parts], Method]] | str] = {
    "fpd": (FpdConfig, FpdMethod),
    "dimo": (DimoConfig, DimoMethod),
    "soft_dimo": (SoftDimoConfig, SoftDimoMethod),
    "sdtt": (SdttConfig, SdttMethod),
    "di4c": (Di4cConfig, Di4cMethod),
    "di4c-d": (Di4cConfig, Di4cMethod),
    "redi": (RediConfig, RediMethod),
    "dmmd": (DmmdConfig, DmmdMethod),
    "tokenizer": (TokenizerTraining, TokenizerMethod),
    "masked_model": (MaskedModelTraining, MaskedModelMethod),
    "classifier": (ClassifierTraining, ClassifierMethod),
    "patch_tokenizer": (PatchTokenizerTraining, PatchTokenizerMethod),
    "scene_text": (SceneTextTraining, SceneTextMethod),
    "masked_text_model": (MaskedTextModelTraining, MaskedTextModelMethod),
    "scene_judge": (SceneJudgeTraining, SceneJudgeMethod),
    "aligned_decoder": (AlignedDecoderConfig, AlignedDecoderMethod),
}
METHODS = Registry("fpd.methods", "method", _OWN, section_pair(Config))

if TYPE_CHECKING:
    MethodConfig = Any
else:
    MethodConfig = Annotated[Config, Sections(METHODS)]


def build_method(config: MethodConfig, parts: Parts) -> Method:
    """The method of a config section, with its networks on `parts.device`.

    Raises:
        CheckpointError: a network it starts from cannot be loaded.
    """
    return METHODS[config.name][1](config, parts)
