"""The shape of the demo checkpoint: every part of Gemma 3n, each as small as it can be.

The id space mirrors Google's: text ids, then the vision range, then the audio range, so that
`<end_of_image>`, `<image_soft_token>`, `<end_of_audio>` and `<audio_soft_token>` lie beyond the PLE table.
"""

from typing import Any

from timm.models._efficientnet_builder import decode_arch_def
from transformers import Gemma3nConfig

IMAGE_SIDE = 256
# A quarter of what Google's tower gives, or pictures would take most of the training time.
IMAGE_TOKENS_A_SIDE = 8
NUM_IMAGE_TOKENS = IMAGE_TOKENS_A_SIDE**2
NUM_AUDIO_TOKENS = 188
MULTIMODAL_VOCAB_SIZE = 8

# One stage each of what MobileNetV5 is made of: edge residual, inverted residual, and multi-query attention.
_VISION_BLOCKS = [
    ["er_r1_k3_s2_e2_c16"],
    ["uir_r1_a3_k5_s2_e3_c32"],
    ["uir_r1_a5_k5_s2_e4_c64", "uir_r1_a3_k0_s1_e2_c64"],
    ["uir_r1_a3_k5_s2_e3_c96", "mqa_r1_k3_h4_s1_d16_c96", "uir_r1_a0_k0_s1_e2_c96"],
]


def config(num_text_tokens: int, token_ids: dict[str, int]) -> Gemma3nConfig:
    """Returns the configuration for a vocabulary of ``num_text_tokens`` text ids.

    ``token_ids`` gives the ids of the special tokens by their text.
    """
    audio_offset = num_text_tokens + MULTIMODAL_VOCAB_SIZE
    return Gemma3nConfig(
        text_config=_text(audio_offset + MULTIMODAL_VOCAB_SIZE, num_text_tokens, token_ids),
        vision_config=_vision(num_text_tokens),
        audio_config=_audio(audio_offset),
        audio_soft_tokens_per_image=NUM_AUDIO_TOKENS,
        vision_soft_tokens_per_image=NUM_IMAGE_TOKENS,
        boi_token_id=token_ids["<start_of_image>"],
        eoi_token_id=token_ids["<end_of_image>"],
        image_token_id=token_ids["<image_soft_token>"],
        boa_token_id=token_ids["<start_of_audio>"],
        eoa_token_id=token_ids["<end_of_audio>"],
        audio_token_id=token_ids["<audio_soft_token>"],
        initializer_range=0.05,
    )


def vision_model_args() -> dict[str, Any]:
    """Returns fresh arguments for timm, which writes into what it is given."""
    return {
        "block_args": decode_arch_def(_VISION_BLOCKS),
        "stem_size": 16,
        "msfa_output_resolution": IMAGE_TOKENS_A_SIDE,
    }


def _text(vocab_size: int, vocab_size_per_layer_input: int, token_ids: dict[str, int]) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "vocab_size_per_layer_input": vocab_size_per_layer_input,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_size_per_layer_input": 16,
        "laurel_rank": 16,
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
            "full_attention",
        ],
        "num_kv_shared_layers": 3,
        "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        "sliding_window": 32,
        "max_position_embeddings": 4096,
        "initializer_range": 0.05,
        "pad_token_id": token_ids["<pad>"],
        "bos_token_id": token_ids["<bos>"],
        "eos_token_id": [token_ids["<eos>"], token_ids["<end_of_turn>"]],
    }


def _vision(vocab_offset: int) -> dict[str, Any]:
    return {
        "architecture": "mobilenetv5_300m_enc",
        "model_args": vision_model_args(),
        "hidden_size": 2048,
        "vocab_size": MULTIMODAL_VOCAB_SIZE,
        "vocab_offset": vocab_offset,
    }


def _audio(vocab_offset: int) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "conf_num_attention_heads": 4,
        "conf_num_hidden_layers": 2,
        "sscp_conv_channel_size": [16, 8],
        "vocab_size": MULTIMODAL_VOCAB_SIZE,
        "vocab_offset": vocab_offset,
    }
