"""OpenAI's `prediction`: a text that the client expects, as tokens that an engine can draft from."""

from __future__ import annotations

from trtllm_openai.api.context import LoadedModel
from trtllm_openai.api.conversation import encode
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import Prediction, PredictionPart


def predicted_text(prediction: Prediction) -> str:
    """The text of a prediction, its parts joined. Raises `InvalidRequest` for what is no text."""
    if prediction.type != "content":
        raise InvalidRequest("'prediction.type' must be content.", "prediction.type")
    if isinstance(prediction.content, str):
        return prediction.content
    return "".join(_text(part, index) for index, part in enumerate(prediction.content))


def _text(part: PredictionPart, index: int) -> str:
    if part.type != "text":
        name = f"prediction.content[{index}].type"
        raise InvalidRequest(f"'{name}' must be text.", name)
    return part.text


async def predicted_tokens(
    model: LoadedModel, prediction: Prediction | None, salt: str | None
) -> list[int] | None:
    """Token ids of a prediction, at most as many as a sequence can have; none for an empty one.

    None if there is no prediction, or the engine makes no use of one. `salt`: that of `api.prefixes`.
    """
    if prediction is None:
        return None
    text = predicted_text(prediction)
    if not model.info.capabilities.prediction:
        return None
    if not text:
        return []
    tokens = await encode(model, text, "prediction.content", add_special_tokens=False, salt=salt)
    return tokens[: model.info.max_seq_len]
