"""What can be trained. A method is one file with a config section and one line in `METHODS`."""

from typing import Annotated, Any, Union

from pydantic import Field

from fpd_train.methods.fpd import FpdConfig, FpdMethod
from fpd_train.methods.interface import Method, Parts
from fpd_train.pretrain.classifier import ClassifierMethod, ClassifierTraining
from fpd_train.pretrain.masked_model import MaskedModelMethod, MaskedModelTraining
from fpd_train.pretrain.tokenizer import TokenizerMethod, TokenizerTraining

METHODS: dict[Any, Any] = {
    FpdConfig: FpdMethod,
    TokenizerTraining: TokenizerMethod,
    MaskedModelTraining: MaskedModelMethod,
    ClassifierTraining: ClassifierMethod,
}

MethodConfig = Annotated[Union[tuple(METHODS)], Field(discriminator="name")]


def build_method(config: Any, parts: Parts) -> Method:
    """The method of a config section, with its networks on `parts.device`.

    Raises:
        CheckpointError: a network it starts from cannot be loaded.
    """
    method: Method = METHODS[type(config)](config, parts)
    return method
