"""GPT-2 in Hugging Face folders: its two tables, and nothing else.

GPT-2's own code stored the weights of linear layers as (in, out), where PyTorch has (out, in): they are transposed.

Source: the fields of `GPT2Config` and `PreTrainedConfig`, and `GPT2LMHeadModel`, in the library transformers.
"""

from __future__ import annotations

import re

from handloom.checkpoints.families import ConfigKeys, Family, ParamMap, TensorNames

_CAUSAL_LM, _CLASSIFIER = "GPT2LMHeadModel", "GPT2ForSequenceClassification"
_WITH_MORE_HEADS = ("GPT2DoubleHeadsModel", "GPT2HeadWithValueModel", "AutoModelForCausalLMWithValueHead")
_PRECISIONS = "Handloom reads weights in float32, float16 and bfloat16"

_NO_EFFECT = frozenset(
    (
        # Names, bookkeeping, and the dtype of the weights, which is in the files themselves.
        "_name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype", "use_bfloat16",
        "finetuning_task", "task_specific_params", "id2label", "label2id", "num_labels", "_num_labels",
        "problem_type", "n_special", "predict_special_tokens", "embd_size", "license", "name", "language",
        "languages", "description", "unsloth_version", "unsloth_fixed", "transformers.js_config", "library_name",
        "vocab_file", "model_max_length",
        # How an implementation computes the same.
        "use_cache", "output_past", "output_attentions", "output_hidden_states", "return_dict", "use_return_dict",
        "torchscript", "gradient_checkpointing", "chunk_size_feed_forward", "_attn_implementation",
        "_attn_implementation_autoset", "attn_implementation", "tf_legacy_loss", "xla_device", "is_decoder",
        "tie_encoder_decoder", "use_flash_attention_2", "_flash_attn_2_enabled", "pretraining_tp",
        "reorder_and_upcast_attn",  # the same sums in another order, and in float32, as we compute
        # Only while training, or of families that GPT2Config is not: it reads none of them.
        "attention_probs_dropout_prob", "hidden_dropout_prob", "attention_dropout", "hidden_dropout", "dropout",
        "classifier_dropout", "layerdrop", "neftune_noise_alpha", "initializer_factor", "type_vocab_size",
        "cross_attention_hidden_size",
        # Before training, and heads for classification, which have tensors of their own.
        "initializer_range", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
        "summary_first_dropout",
        # Tokens: those of the folder's tokenizer count.
        "bos_token_id", "eos_token_id", "eos_token_ids", "pad_token_id", "sep_token_id", "unk_token_id",
        "cls_token_id", "mask_token_id", "decoder_start_token_id", "tokenizer_class", "prefix", "suppress_tokens",
        "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
        # Settings for sampling, which a request for text has itself.
        "do_sample", "early_stopping", "max_length", "min_length", "max_new_tokens", "num_beams",
        "num_beam_groups", "num_return_sequences", "temperature", "top_k", "top_p", "typical_p", "length_penalty",
        "repetition_penalty", "diversity_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
        "bad_words_ids", "exponential_decay_length_penalty", "remove_invalid_values", "output_scores",
        "return_dict_in_generate", "min_p", "epsilon_cutoff", "eta_cutoff", "penalty_alpha", "max_time",
        "renormalize_logits", "low_memory",
    )
)  # fmt: skip

_KEYS = ConfigKeys(
    model_type="gpt2",
    causal_lm=_CAUSAL_LM,
    classifier=_CLASSIFIER,
    architectures=(_CAUSAL_LM, "GPT2Model", _CLASSIFIER, *_WITH_MORE_HEADS),
    identifying=("n_embd", "n_head", "n_layer"),
    fields={
        "vocab_size": "vocab_size",
        "n_positions": "context_length",
        "n_layer": "layers",
        "n_head": "heads",
        "n_embd": "embed_dim",
        "n_inner": "ffn_dim",
        "layer_norm_epsilon": "norm_eps",
        "scale_attn_weights": "scale_attention_weights",
        "scale_attn_by_inverse_layer_idx": "scale_attention_by_inverse_layer",
        "tie_word_embeddings": "tie_embeddings",
        "embd_pdrop": "embedding_dropout",
        "attn_pdrop": "attention_dropout",
        "resid_pdrop": "residual_dropout",
    },
    defaults={"embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1},
    activation="activation_function",
    activations={"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"},
    aliases={
        "max_position_embeddings": "n_positions",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "hidden_size": "n_embd",
    },
    same_as={"n_ctx": "n_positions"},
    only={"position_embedding_type": (("absolute", None), "Handloom has absolute positions")},
    refused={
        "add_cross_attention": "Handloom does not have cross attention",
        "is_encoder_decoder": "Handloom does not have an encoder",
        "pruned_heads": "in Handloom all layers have all their heads",
        "quantization_config": _PRECISIONS,
        "compression_config": _PRECISIONS,
        "auto_map": "such a model brings code of its own, and Handloom runs none",
        "afn": "only the first GPT has that key, and Handloom reads GPT-2",
    },
    overlooked={
        "hidden_act": "activation_function",
        "intermediate_size": "n_inner",
        "layer_norm_eps": "layer_norm_epsilon",
    },
    no_effect=_NO_EFFECT,
)

_TENSORS = TensorNames(
    prefix="transformer.",
    block="h.{i}.",
    outside=(
        ParamMap("embedding.token_embedding.weight", "wte.weight"),
        ParamMap("embedding.position_embedding.weight", "wpe.weight"),
        ParamMap("final_norm.weight", "ln_f.weight"),
        ParamMap("final_norm.bias", "ln_f.bias"),
    ),
    in_block=(
        ParamMap("attention_norm.weight", "ln_1.weight"),
        ParamMap("attention_norm.bias", "ln_1.bias"),
        ParamMap("attention.qkv.weight", "attn.c_attn.weight", transposed=True),
        ParamMap("attention.qkv.bias", "attn.c_attn.bias"),
        ParamMap("attention.out.weight", "attn.c_proj.weight", transposed=True),
        ParamMap("attention.out.bias", "attn.c_proj.bias"),
        ParamMap("feedforward_norm.weight", "ln_2.weight"),
        ParamMap("feedforward_norm.bias", "ln_2.bias"),
        ParamMap("feedforward.up.weight", "mlp.c_fc.weight", transposed=True),
        ParamMap("feedforward.up.bias", "mlp.c_fc.bias"),
        ParamMap("feedforward.down.weight", "mlp.c_proj.weight", transposed=True),
        ParamMap("feedforward.down.bias", "mlp.c_proj.bias"),
    ),
    head=ParamMap("lm_head.weight", "lm_head.weight"),
    classifier=ParamMap("classifier.weight", "score.weight"),
    embedding="wte.weight",
    # Older files store the causal mask, and the number that stood for minus infinity.
    not_learned=re.compile(r"h\.\d+\.attn\.(bias|masked_bias)"),
    # TRL's and trlX's heads for values, and that of GPT2DoubleHeadsModel.
    other_heads=re.compile(r"(v_head|ilql_heads|multiple_choice_head)\..+"),
)

GPT2 = Family(_KEYS, _TENSORS)
