"""What can be trained. A method is one file with a config section, one line in `METHODS` and its name in the union."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

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

_Trainings = (
    FpdConfig
    | DimoConfig
    | SoftDimoConfig
    | SdttConfig
    | Di4cConfig
    | RediConfig
    | DmmdConfig
    | TokenizerTraining
    | MaskedModelTraining
    | ClassifierTraining
    | PatchTokenizerTraining
    | SceneTextTraining
    | MaskedTextModelTraining
    | SceneJudgeTraining
    | AlignedDecoderConfig
)
MethodConfig = Annotated[_Trainings, Field(discriminator="name")]

METHODS: dict[type, Callable[[Any, Parts], Method]] = {
    FpdConfig: FpdMethod,
    DimoConfig: DimoMethod,
    SoftDimoConfig: SoftDimoMethod,
    SdttConfig: SdttMethod,
    Di4cConfig: Di4cMethod,
    RediConfig: RediMethod,
    DmmdConfig: DmmdMethod,
    TokenizerTraining: TokenizerMethod,
    MaskedModelTraining: MaskedModelMethod,
    ClassifierTraining: ClassifierMethod,
    PatchTokenizerTraining: PatchTokenizerMethod,
    SceneTextTraining: SceneTextMethod,
    MaskedTextModelTraining: MaskedTextModelMethod,
    SceneJudgeTraining: SceneJudgeMethod,
    AlignedDecoderConfig: AlignedDecoderMethod,
}


def build_method(config: MethodConfig, parts: Parts) -> Method:
    """The method of a config section, with its networks on `parts.device`.

    Raises:
        CheckpointError: a network it starts from cannot be loaded.
    """
    return METHODS[type(config)](config, parts)
