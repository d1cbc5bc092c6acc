"""Mixtures of experts: Qwen 3 MoE, Mixtral, Qwen 2 MoE and Qwen3-VL-MoE, and how their sites are hooked."""

import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import fixture as fx
import llava
import pixtral
import qwen_vl
import text


CASES = {"single": ["a"], "batch_left": ["b", "c"]}
EAGER = dict(attn_implementation="eager", experts_implementation="eager")


class Output:
    """The output of a whole mixture: hooked as the block, folded into the last matrix of every expert."""

    def __init__(self, block, width):
        self.block, self.out_features = block, width

    def register_forward_hook(self, hook):
        return self.block.register_forward_hook(hook)

    def scale_rows(self, alpha):
        self.block.experts.down_proj *= alpha[None, :, None]
        if hasattr(self.block, "shared_expert"):
            self.block.shared_expert.down_proj.weight *= alpha[:, None]


class Handle:
    def __init__(self, hooks, hook):
        self.hooks, self.hook = hooks, hook
        hooks.append(hook)

    def remove(self):
        self.hooks.remove(self.hook)


class Expert:
    """A projection of one expert: hooked within the loop over experts, folded into its rows of the stacked tensors."""

    def __init__(self, experts, index, projection):
        self.experts, self.index, self.projection = experts, index, projection
        self.out_features = experts.hidden_dim if projection == "down_proj" else experts.intermediate_dim
        self.hooks = experts.tapped.setdefault((index, projection), [])

    def register_forward_hook(self, hook):
        return Handle(self.hooks, hook)

    def scale_rows(self, alpha):
        width = self.experts.intermediate_dim
        if self.projection == "down_proj":
            self.experts.down_proj[self.index] *= alpha[:, None]
        else:
            start = 0 if self.projection == "gate_proj" else width
            self.experts.gate_up_proj[self.index, start : start + width] *= alpha[:, None]


def tap_experts(block):
    """Lets hooks see and change the outputs of single experts; without hooks, transformers' own code runs."""
    experts, plain = block.experts, block.experts.forward
    experts.tapped, shape = {}, []
    block.register_forward_pre_hook(lambda _module, inputs: shape.__setitem__(slice(None), inputs[0].shape[:2]))

    def forward(hidden, chosen, weights):
        if not any(experts.tapped.values()):
            return plain(hidden, chosen, weights)
        result = torch.zeros_like(hidden)
        for index in range(experts.num_experts):
            place, token = torch.where((chosen == index).T)

            def tap(projection, y):
                """NaN for tokens that do not come here."""
                whole = torch.full((len(hidden), y.shape[-1]), torch.nan, dtype=y.dtype)
                whole[token] = y
                whole = whole.view(*shape, -1)
                for hook in experts.tapped.get((index, projection), []):
                    changed = hook(None, None, whole)
                    whole = whole if changed is None else changed
                return whole.view(len(hidden), -1)[token]

            gate, up = torch.nn.functional.linear(hidden[token], experts.gate_up_proj[index]).chunk(2, -1)
            y = experts.act_fn(tap("gate_proj", gate)) * tap("up_proj", up)
            y = tap("down_proj", torch.nn.functional.linear(y, experts.down_proj[index]))
            result.index_add_(0, token, y * weights[token, place, None])
        return result

    experts.forward = forward


def sites(decoder="model", single=False):
    """(layer, projection) -> what has the output, for layers with and without a mixture; `single` experts too."""

    def of(model):
        found = {}
        for i, layer in enumerate(model.get_submodule(decoder).layers):
            if hasattr(layer.mlp, "experts"):
                found[i, "down_proj"] = (Output(layer.mlp, layer.mlp.experts.hidden_dim), None)
                if single:
                    experts = layer.mlp.experts
                    if not hasattr(experts, "tapped"):
                        tap_experts(layer.mlp)
                    one = lambda e, p: {(i, f"experts.{e}.{p}"): (Expert(experts, e, p), None)}
                    for e in range(experts.num_experts):
                        found |= one(e, "gate_proj") | one(e, "up_proj") | one(e, "down_proj")
            else:
                found |= {(i, p): (getattr(layer.mlp, p), None) for p in fx.PROJECTIONS}
        return found

    return of


def value(name, parameter, noise):
    """Stacked experts have unit gain too, and routers tell tokens apart clearly."""
    if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        return noise / parameter.shape[-1] ** 0.5
    if name.endswith("mlp.gate.weight"):
        return 2.0 * noise / parameter.shape[-1] ** 0.5
    return qwen_vl.value(name, parameter, noise)


def mixture_fixture(tokenizer, **fields):
    defaults = dict(sites=sites(), value=value, eager=EAGER, prompts=text.prompts(d=None, h=None), cases=CASES)
    return text.text_fixture(tokenizer, **defaults | fields)


def qwen3_moe():
    tokenizer = text.qwen_tokenizer(text.QWEN3, [], alphabet=pixtral.ALPHABET)
    config = hf.Qwen3MoeConfig(
        **text.shape(tokenizer, hidden_size=24, intermediate_size=20, num_hidden_layers=3, head_dim=8),
        num_experts=5, num_experts_per_tok=2, moe_intermediate_size=8, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[1],
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    )  # fmt: skip
    return mixture_fixture(
        tokenizer,
        note="Qwen 3 MoE in its published layout: 2 of 5 experts, whose weights are normalised, in layers 0 and 2, a plain MLP in "
        "layer 1 (mlp_only_layers); a tensor for each projection of each expert, norms of queries and keys. Sites of single experts are "
        "recorded and scaled too.",
        model_class=hf.Qwen3MoeForCausalLM,
        config=config,
        sites=sites(single=True),
        ablations={
            "norm_topk_prob": text.setting("norm_topk_prob", False),
            "num_experts_per_tok": text.setting("num_experts_per_tok", 3),
        },
    )


def mixtral():
    tokenizer = text.mistral_tokenizer(range(32, 127))
    config = hf.MixtralConfig(
        **text.shape(tokenizer, hidden_size=16, intermediate_size=8), num_local_experts=4, num_experts_per_tok=2, sliding_window=6,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    )  # fmt: skip
    return mixture_fixture(
        tokenizer,
        note="Mixtral in its published layout: block_sparse_moe.experts.N.w1, w2 and w3, 2 of 4 experts in every layer, a sliding window "
        "of 6; f16.",
        model_class=hf.MixtralForCausalLM,
        config=config,
        prompts=text.prompts(d=None, h=None, g=fx.Prompt([text.system("Be brief."), text.user("So?"), text.assistant(" A boat.\n"), text.user("Is it old?")])),
        disk_dtype=torch.float16,
        ablations={
            "num_experts_per_tok": text.setting("num_experts_per_tok", 1),
            "sliding_window": text.setting("sliding_window", None),
        },
    )


def qwen2_moe():
    tokenizer = text.qwen_tokenizer(text.QWEN3, [], alphabet=pixtral.ALPHABET)
    config = hf.Qwen2MoeConfig(
        **text.shape(tokenizer, hidden_size=16, intermediate_size=20),
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, shared_expert_intermediate_size=12, norm_topk_prob=False,
        decoder_sparse_step=2, rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    )  # fmt: skip
    return mixture_fixture(
        tokenizer,
        note="Qwen 2 MoE under the module names of transformers 5, experts stacked: a shared expert behind a sigmoid, weights that are not "
        "normalised, a mixture in every second layer (decoder_sparse_step), biases of q, k and v.",
        model_class=hf.Qwen2MoeForCausalLM,
        config=config,
        write=llava.write_modules,
        ablations={
            "norm_topk_prob": text.setting("norm_topk_prob", True),
            "num_experts_per_tok": text.setting("num_experts_per_tok", 1),
        },
    )


def qwen3_vl_moe():
    words = qwen_vl.tokenizer()
    rope = {"rope_theta": 200.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    shape = qwen_vl.text_shape(
        words, rope, hidden_size=24, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        rms_norm_eps=1e-6, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, mlp_only_layers=[1],
    )  # fmt: skip
    vision = dict(
        depth=2, hidden_size=16, intermediate_size=24, num_heads=2, out_hidden_size=24, patch_size=qwen_vl.PATCH,
        num_position_embeddings=9, deepstack_visual_indexes=[0],
    )  # fmt: skip
    mean = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return qwen_vl.qwen_fixture(
        note="Qwen3-VL with mixtures of experts, in its published layout: experts stacked as [experts, inputs, neurons], "
        "a plain MLP in layer 1, deepstack features after layer 0.",
        model_class=hf.Qwen3VLMoeForConditionalGeneration,
        config=hf.Qwen3VLMoeConfig(text_config=shape, vision_config=vision, **qwen_vl.ids(words)),
        processor=hf.Qwen3VLProcessor(
            qwen_vl.image_processor(2, 4, **mean), words, hf.Qwen3VLVideoProcessor(), chat_template=qwen_vl.QWEN3
        ),
        cases={"single": ["a"], "batch_left": ["b", "c"]},
        disk_dtype=torch.bfloat16,
        record_layers=False,
        sites=sites("model.language_model"),
        value=value,
        eager=EAGER,
        write=write_stacked,
        pictures=lambda: {"a": fx.picture(30, 22, 1), "b": fx.picture(19, 33, 2), "c": fx.picture(13, 9, 3)},
        ablations={
            "num_experts_per_tok": qwen_vl.text_setting("num_experts_per_tok", 1),
            "deepstack_visual_indexes": qwen_vl.vision_setting("deepstack_visual_indexes", [1]),
        },
    )


def write_stacked(fixture, model, directory):
    """Stacked experts in the published orientation, which transformers reads but `save_pretrained` does not write."""
    llava.write_saved(fixture, model, directory)
    file = directory / "model.safetensors"
    tensors = {name: t.transpose(1, 2).contiguous() if ".experts." in name else t for name, t in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
