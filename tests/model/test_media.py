"""Pictures and clips against transformers' own processor and forward."""

import math

import numpy as np
import pytest
import torch

from gemma3n_appliance.demo.architecture import NUM_AUDIO_TOKENS as CLIP
from gemma3n_appliance.demo.architecture import NUM_IMAGE_TOKENS as PICTURE
from gemma3n_appliance.engine.request import Audio, GenerationRequest, Image, Sampling
from gemma3n_appliance.errors import InvalidRequestError

GREEDY = Sampling(temperature=0.0)
IMAGE, AUDIO = "<image_soft_token>", "<audio_soft_token>"


def picture(seed: int, width: int, height: int) -> Image:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image(width, height, rgb.tobytes())


def tone(seconds: float, hertz: float) -> Audio:
    time = np.arange(int(seconds * 16_000)) / 16_000
    return Audio((0.3 * np.sin(2 * math.pi * hertz * time)).astype("<f4").tobytes())


def _as_transformers_takes_it(item):
    if isinstance(item, Image):
        return np.frombuffer(item.rgb, np.uint8).reshape(item.height, item.width, 3)
    return np.frombuffer(item.samples, "<f4")


CONVERSATIONS = {
    "one picture": (f"what do you see? {IMAGE}", (picture(1, 90, 40),)),
    "one clip": (f"{AUDIO} what do you hear?", (tone(2.0, 440),)),
    "a clip of half a minute": (f"hear {AUDIO}", (tone(30.0, 1200),)),
    "two pictures and a clip between them": (
        f"see {IMAGE} hear {AUDIO} and see {IMAGE} this",
        (picture(2, 256, 256), tone(1.1, 900), picture(3, 33, 500)),
    ),
}


@pytest.fixture(params=CONVERSATIONS)
def conversation(request, processor):
    """Token ids and media for us, and the same as transformers' processor makes it."""
    text, media = CONVERSATIONS[request.param]
    images = [_as_transformers_takes_it(item) for item in media if isinstance(item, Image)]
    clips = [_as_transformers_takes_it(item) for item in media if isinstance(item, Audio)]
    inputs = processor(text=[text], images=images or None, audio=clips or None, return_tensors="pt")
    inputs.pop("token_type_ids")
    return inputs["input_ids"][0].tolist(), media, inputs


@torch.no_grad()
def reference(model, inputs, *more_tokens):
    ids = torch.cat([inputs["input_ids"], torch.tensor([more_tokens], dtype=torch.long)], dim=1)
    return model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0, -1]


@pytest.mark.parametrize("chunk", [1024, 100])
def test_media_give_the_reference_logits_in_prefill_and_decode(
    multimodal_probe, multimodal_model, conversation, assert_close, chunk
):
    token_ids, media, inputs = conversation
    produced = [multimodal_probe.start(1, token_ids, chunk, media=media)]
    assert_close(multimodal_probe.logits[0], reference(multimodal_model, inputs))
    for _ in range(2):
        following = multimodal_probe.runner.decode([1])
        assert_close(multimodal_probe.logits[0], reference(multimodal_model, inputs, *produced))
        produced += following


def test_what_a_picture_shows_reaches_the_logits(multimodal_probe, processor):
    inputs = processor(text=[f"see {IMAGE}"], images=[_as_transformers_takes_it(picture(1, 50, 50))])
    token_ids = inputs["input_ids"][0]
    multimodal_probe.start(0, token_ids, media=(picture(1, 50, 50),))
    one = multimodal_probe.logits
    multimodal_probe.start(1, token_ids, media=(picture(2, 50, 50),))
    assert (one - multimodal_probe.logits).norm() / one.norm() > 1e-3


def test_a_picture_that_is_still_there_is_neither_encoded_nor_read_again(
    multimodal_probe, multimodal_model, processor, assert_close, monkeypatch
):
    text = f"see {IMAGE} hear and see {IMAGE} this"
    one, two, three = (picture(seed, 50, 50) for seed in (1, 2, 3))
    encoded = []
    encode = multimodal_probe.encoder.encode
    monkeypatch.setattr(multimodal_probe.encoder, "encode", lambda item: encoded.append(item) or encode(item))

    for media, newly_encoded in [((one, two), [one, two]), ((one, three), [three]), ((two, one), [])]:
        images = [_as_transformers_takes_it(item) for item in media]
        inputs = processor(text=[text], images=images, return_tensors="pt")
        inputs.pop("token_type_ids")
        token_ids = inputs["input_ids"][0].tolist()
        admission = multimodal_probe.runner.begin(
            [0], GenerationRequest("r", tuple(token_ids), GREEDY, 1, media)
        )
        assert (admission.num_cached_tokens >= PICTURE) == (media == (one, three))
        while multimodal_probe.runner.prefill(0, 100) is None:
            pass
        multimodal_probe.runner.release(0)
        assert_close(multimodal_probe.logits[0], reference(multimodal_model, inputs))
        assert encoded == newly_encoded
        encoded.clear()


def test_ids_of_the_vision_and_audio_ranges_are_embedded_by_their_own_tables(
    multimodal_probe, multimodal_model, tokenizer, assert_close
):
    names = ["<bos>", "<unused_vision_3>", "<end_of_image>", "<unused_audio_5>", "<end_of_audio>"]
    token_ids = tokenizer.convert_tokens_to_ids(names)
    multimodal_probe.start(0, token_ids)
    assert_close(
        multimodal_probe.logits[0], reference(multimodal_model, {"input_ids": torch.tensor([token_ids])})
    )


@pytest.mark.parametrize("milliseconds", [0.1, 10, 32])
def test_a_clip_shorter_than_a_frame_is_heard_as_silence_follows_it(encoder, milliseconds):
    features = encoder.encode(tone(milliseconds / 1000, 440))
    assert features.shape == (CLIP, 128)
    assert features.isfinite().all()


def _refusal(probe, token_ids, media) -> str:
    with pytest.raises(InvalidRequestError) as refused:
        probe.runner.begin([0], GenerationRequest("r", tuple(token_ids), GREEDY, 1, media))
    return refused.value.message


@pytest.mark.parametrize(
    ("num_image_tokens", "num_audio_tokens", "media"),
    [
        (0, 0, (picture(1, 9, 9),)),
        (PICTURE, 0, ()),
        (PICTURE, CLIP, (picture(1, 9, 9),)),
        (PICTURE + 1, 0, (picture(1, 9, 9),)),
        (PICTURE - 1, 0, (picture(1, 9, 9),)),
        (PICTURE, 0, (picture(1, 9, 9), picture(1, 9, 9))),
        (PICTURE, CLIP, (tone(1, 440), picture(1, 9, 9))),
        (CLIP, 0, (tone(1, 440),)),
    ],
)
def test_media_that_do_not_fit_their_places_are_refused(
    multimodal_probe, tokenizer, num_image_tokens, num_audio_tokens, media
):
    image_id, audio_id = tokenizer.convert_tokens_to_ids([IMAGE, AUDIO])
    token_ids = [2, *[image_id] * num_image_tokens, 5, *[audio_id] * num_audio_tokens]
    assert "do not fit their places" in _refusal(multimodal_probe, token_ids, media)


def test_a_clip_over_half_a_minute_is_refused_rather_than_cut(multimodal_probe, tokenizer):
    token_ids = [tokenizer.convert_tokens_to_ids(AUDIO)] * CLIP
    assert "30.1 s" in _refusal(multimodal_probe, token_ids, (tone(30.1, 440),))


def test_a_text_only_model_refuses_media(probe):
    assert "text only" in _refusal(probe, [2, 3], (picture(1, 9, 9),))
