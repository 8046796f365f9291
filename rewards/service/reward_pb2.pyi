from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Description(_message.Message):
    __slots__ = ("reward", "differentiable", "features", "max_images", "max_message_bytes")
    REWARD_FIELD_NUMBER: _ClassVar[int]
    DIFFERENTIABLE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    reward: str
    differentiable: bool
    features: bool
    max_images: int
    max_message_bytes: int
    def __init__(self, reward: _Optional[str] = ..., differentiable: _Optional[bool] = ..., features: _Optional[bool] = ..., max_images: _Optional[int] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...

class Images(_message.Message):
    __slots__ = ("pixels", "prompts")
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    pixels: bytes
    prompts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, pixels: _Optional[bytes] = ..., prompts: _Optional[_Iterable[str]] = ...) -> None: ...

class Judgement(_message.Message):
    __slots__ = ("scores", "gradients", "features")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    scores: bytes
    gradients: bytes
    features: bytes
    def __init__(self, scores: _Optional[bytes] = ..., gradients: _Optional[bytes] = ..., features: _Optional[bytes] = ...) -> None: ...
