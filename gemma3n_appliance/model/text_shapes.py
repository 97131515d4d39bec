"""What a Gemma 3n text model is made of: its tensors' names and shapes."""

from collections.abc import Iterator

from transformers import Gemma3nTextConfig

Shape = tuple[int, ...]


def of(config: Gemma3nTextConfig) -> Iterator[tuple[str, Shape]]:
    """Yields what a checkpoint must have, as ``Gemma3nTextModel`` has it.

    Not of a model made on torch's device without memory: that imports torch's compiler.
    """
    hidden, width = config.hidden_size, config.hidden_size_per_layer_input
    all_widths = config.num_hidden_layers * width
    yield "embed_tokens.weight", (config.vocab_size, hidden)
    yield "embed_tokens_per_layer.weight", (config.vocab_size_per_layer_input, all_widths)
    yield "per_layer_model_projection.weight", (all_widths, hidden)
    yield "per_layer_projection_norm.weight", (width,)
    yield "norm.weight", (hidden,)
    for number in range(config.altup_num_inputs - 1):
        yield f"altup_projections.{number}.weight", (hidden, hidden)
        yield f"altup_unembed_projections.{number}.weight", (hidden, hidden)
    for index in range(config.num_hidden_layers):
        for name, shape in _of_layer(config, index):
            yield f"layers.{index}.{name}", shape


def _of_layer(config: Gemma3nTextConfig, index: int) -> Iterator[tuple[str, Shape]]:
    hidden, inputs, width = config.hidden_size, config.altup_num_inputs, config.hidden_size_per_layer_input
    of_queries = config.num_attention_heads * config.head_dim
    of_keys = config.num_key_value_heads * config.head_dim
    neurons = config.intermediate_size[index]
    yield "self_attn.q_proj.weight", (of_queries, hidden)
    yield "self_attn.q_norm.weight", (config.head_dim,)
    # The others read those of a layer below; what some checkpoints have for them is never read.
    if index < config.num_hidden_layers - config.num_kv_shared_layers:
        yield "self_attn.k_proj.weight", (of_keys, hidden)
        yield "self_attn.v_proj.weight", (of_keys, hidden)
        yield "self_attn.k_norm.weight", (config.head_dim,)
    yield "self_attn.o_proj.weight", (hidden, of_queries)
    yield "mlp.gate_proj.weight", (neurons, hidden)
    yield "mlp.up_proj.weight", (neurons, hidden)
    yield "mlp.down_proj.weight", (hidden, neurons)
    for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
        yield f"{name}_layernorm.weight", (hidden,)
    yield "altup.correct_output_scale", (hidden,)
    yield "altup.correction_coefs.weight", (inputs, inputs)
    yield "altup.prediction_coefs.weight", (inputs**2, inputs)
    yield "altup.modality_router.weight", (inputs, hidden)
    yield "altup.router_norm.weight", (hidden,)
    yield "laurel.linear_left.weight", (config.laurel_rank, hidden)
    yield "laurel.linear_right.weight", (hidden, config.laurel_rank)
    yield "laurel.post_laurel_norm.weight", (hidden,)
    yield "per_layer_input_gate.weight", (width, hidden)
    yield "per_layer_projection.weight", (hidden, width)
    yield "post_per_layer_input_norm.weight", (hidden,)
