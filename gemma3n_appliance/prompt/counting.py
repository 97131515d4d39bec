"""Text to tokens and back, for who wants to know what something costs. CPU-bound: call it in a thread."""

from ..engine.runner import LoadedModel
from ..errors import InvalidRequestError
from ..protocol.tokens import Detokenized, DetokenizeRequest, Tokenized, TokenizeRequest
from .prompts import Prompts
from .token_text import text_of


def tokenize(body: TokenizeRequest, model: LoadedModel, prompts: Prompts) -> Tokenized:
    """Returns the tokens of a text or conversation; pictures and clips count, but are not looked at.

    Raises:
        ContextLengthError: it cannot fit the context.
    """
    if body.prompt is None:
        ids = prompts.chat_tokens(body.chat, model)
    else:
        ids = prompts.text_tokens(body.prompt, model, with_bos=body.add_special_tokens is not False)
    strings = [text_of([token_id], model) for token_id in ids] if body.return_token_strs else None
    return Tokenized(count=len(ids), max_model_len=model.runner.max_context, tokens=ids, token_strs=strings)


def detokenize(body: DetokenizeRequest, model: LoadedModel) -> Detokenized:
    """Returns the text of tokens.

    Raises:
        InvalidRequestError: there is no such token.
    """
    for index, token_id in enumerate(body.tokens):
        if token_id >= len(model.pieces):
            raise InvalidRequestError(
                f"There is no token {token_id}: ids go from 0 to {len(model.pieces) - 1}.",
                param=f"tokens[{index}]",
            )
    return Detokenized(prompt=text_of(body.tokens, model))
