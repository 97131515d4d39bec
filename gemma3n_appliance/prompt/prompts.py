"""From the body of a request to what the engine is asked to do. CPU-bound: call it in a thread."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from ..engine.request import Audio, GenerationRequest, Image, Media, Sampling
from ..engine.runner import LoadedModel
from ..errors import InvalidRequestError
from ..protocol.chat_request import ChatCompletionRequest
from ..protocol.completion_request import DEFAULT_MAX_TOKENS, CompletionRequest
from ..protocol.generation_fields import SamplingFields
from ..settings import Settings
from . import audio, checkpoint, images
from .conversation import Clip, Conversation, Picture, from_messages
from .encoded import from_base64, from_data_url
from .sampling import check_prompt, max_tokens, sampling
from .structured import grammar
from .template import only
from .token_text import text_of
from .tools import instructions

_NOTHING_FETCHED: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine is asked to do, and how many of its prompt tokens stand for media."""

    request: GenerationRequest
    num_image_tokens: int
    num_audio_tokens: int


class Prompts:
    """Makes prompts for one checkpoint, whose files are read at the first use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def files(self) -> checkpoint.PromptFiles:
        """The checkpoint's files. Raises ModelLoadError where they cannot be used."""
        return checkpoint.read(self._settings.model_dir)

    def for_chat(
        self,
        body: ChatCompletionRequest,
        model: LoadedModel,
        request_id: str,
        fetched: Mapping[str, bytes] = _NOTHING_FETCHED,
    ) -> Prompt:
        """Returns the prompt of a conversation; of pictures that are elsewhere, ``fetched`` has the files.

        Raises:
            ContextLengthError: it does not fit; found before any picture is decoded.
            GrammarError: the answer cannot be kept to what the request describes.
            InvalidRequestError: media are broken, too large, or not for this model.
        """
        conversation = _conversation(body)
        media = conversation.media
        _check_senses(media, model)
        _check_biases(body, len(model.pieces))
        token_ids, limit = self._tokens(body, conversation, model.runner.max_context)
        form = grammar(body, model.grammars)
        decoded = tuple(self._decode(each, fetched) for each in media)
        request = GenerationRequest(
            request_id=request_id,
            token_ids=token_ids,
            sampling=self._sampling(body),
            max_tokens=limit,
            media=decoded,
            stop=body.stop_strings,
            ignore_eos=bool(body.ignore_eos),
            num_choices=body.num_choices,
            num_top_logprobs=body.num_top_logprobs,
            grammar=form,
            tools=tuple(function.name for function in body.functions_to_call),
        )
        return Prompt(
            request,
            num_image_tokens=self.files.num_image_tokens * _count(decoded, Image),
            num_audio_tokens=self.files.num_audio_tokens * _count(decoded, Audio),
        )

    def for_completion(
        self, body: CompletionRequest, model: LoadedModel, request_id: str
    ) -> list[GenerationRequest]:
        """Returns the prompts of a completion, in order; text among them has no control tokens.

        Raises:
            ContextLengthError: one does not fit.
            GrammarError: the answers cannot be kept to what the request describes.
            InvalidRequestError: there is no such token, or it stands for part of a picture or a clip.
        """
        _check_biases(body, len(model.pieces))
        asked = [self._completion_prompt(body, index, model) for index in range(len(body.prompts))]
        form = grammar(body, model.grammars)
        return [
            GenerationRequest(
                request_id=request_id,
                token_ids=tuple(ids),
                sampling=self._sampling(body),
                max_tokens=limit,
                stop=body.stop_strings,
                ignore_eos=bool(body.ignore_eos),
                num_choices=body.num_choices,
                num_top_logprobs=body.logprobs,
                grammar=form,
                first_choice=index * body.num_choices,
            )
            for index, (ids, limit) in enumerate(asked)
        ]

    def echoes(self, body: CompletionRequest, model: LoadedModel) -> tuple[str, ...]:
        """Returns the prompts as text where the answers are to begin with them, else nothing."""
        if not body.echo:
            return ()
        return tuple(prompt if isinstance(prompt, str) else text_of(prompt, model) for prompt in body.prompts)

    def chat_tokens(self, body: ChatCompletionRequest, model: LoadedModel) -> list[int]:
        """Returns what a conversation becomes; its pictures and clips are not looked at.

        Raises:
            ContextLengthError: it cannot fit, however it is encoded.
            InvalidRequestError: media are not for this model.
        """
        conversation = _conversation(body)
        _check_senses(conversation.media, model)
        return self._encoded(conversation, model.runner.max_context)

    def text_tokens(
        self, text: str, model: LoadedModel, *, with_bos: bool, param: str = "prompt"
    ) -> list[int]:
        """Returns a text's tokens, none of them control tokens, after the one that begins prompts.

        Raises:
            ContextLengthError: it cannot fit, however it is encoded; ``param`` is where it stands.
        """
        fewest = self.files.tokenizer.fewest_tokens(len(text))
        check_prompt(fewest, model.runner.max_context, param=param, qualifier="at least ")
        return self.files.tokenizer.encode(only(text, self.files.bos_token if with_bos else ""))

    def _completion_prompt(
        self, body: CompletionRequest, index: int, model: LoadedModel
    ) -> tuple[list[int], int]:
        """Returns the tokens of one of the prompts, and how many may be generated."""
        prompt = body.prompts[index]
        param = f"prompt[{index}]" if body.has_several_prompts else "prompt"
        if isinstance(prompt, str):
            with_bos = body.add_special_tokens is not False
            ids = self.text_tokens(prompt, model, with_bos=with_bos, param=param)
        else:
            check_prompt(len(prompt), model.runner.max_context, param=param)
            self._check_ids(prompt, model, param)
            ids = prompt
        limit = max_tokens(
            body,
            num_prompt_tokens=len(ids),
            context=model.runner.max_context,
            default=DEFAULT_MAX_TOKENS,
            param=param,
        )
        return ids, limit

    def _check_ids(self, ids: list[int], model: LoadedModel, param: str) -> None:
        soft = self.files.tokenizer.soft_token_ids
        for index, token_id in enumerate(ids):
            if token_id >= len(model.pieces):
                raise InvalidRequestError(
                    f"There is no token {token_id}: ids go from 0 to {len(model.pieces) - 1}.",
                    param=f"{param}[{index}]",
                )
            if token_id in soft:
                raise InvalidRequestError(
                    f"Token {token_id} stands for part of a picture or a clip, which only chats can hold.",
                    param=f"{param}[{index}]",
                )

    def _sampling(self, body: SamplingFields) -> Sampling:
        return sampling(
            body, temperature=self._settings.temperature, top_k=self.files.top_k, top_p=self.files.top_p
        )

    def _encoded(self, conversation: Conversation, context: int) -> list[int]:
        check_prompt(self._fewest_tokens(conversation), context, qualifier="at least ")
        return self.files.tokenizer.encode(self.files.template.render(conversation))

    def _tokens(
        self, body: ChatCompletionRequest, conversation: Conversation, context: int
    ) -> tuple[tuple[int, ...], int]:
        token_ids = self._encoded(conversation, context)
        limit = max_tokens(
            body,
            num_prompt_tokens=len(token_ids),
            context=context,
            default=self._settings.max_length,
        )
        return tuple(token_ids), limit

    def _fewest_tokens(self, conversation: Conversation) -> int:
        """A bound that costs nothing, so that megabytes of text are refused without being encoded."""
        media = conversation.media
        return (
            len(conversation.turns)
            + self.files.tokenizer.fewest_tokens(conversation.num_characters)
            + self.files.num_image_tokens * _count(media, Picture)
            + self.files.num_audio_tokens * _count(media, Clip)
        )

    def _decode(self, media: Picture | Clip, fetched: Mapping[str, bytes]) -> Media:
        if isinstance(media, Clip):
            return audio.decode(from_base64(media.data, media.param), media.param)
        content = fetched.get(media.url)
        if content is None:
            content = from_data_url(media.url, media.param)
        return images.decode(content, self._settings.max_image_pixels, self.files.resize, media.param)


def _conversation(body: ChatCompletionRequest) -> Conversation:
    functions = instructions(body.functions_to_call, parallel=body.may_call_in_parallel)
    return from_messages(body.messages, functions)


def _check_senses(media: list[Picture | Clip], model: LoadedModel) -> None:
    for each in media:
        if isinstance(each, Picture) and not model.has_vision:
            raise InvalidRequestError("This model has no eyes: it does not take images.", param=each.param)
        if isinstance(each, Clip) and not model.has_audio:
            raise InvalidRequestError("This model has no ears: it does not take audio.", param=each.param)


def _check_biases(body: SamplingFields, num_ids: int) -> None:
    for token_id, _ in body.token_biases:
        if token_id >= num_ids:
            raise InvalidRequestError(
                f"There is no token {token_id}: ids go from 0 to {num_ids - 1}.", param="logit_bias"
            )


def _count(items: list[Picture | Clip] | tuple[Media, ...], kind: type) -> int:
    return sum(isinstance(item, kind) for item in items)
