"""What a golden fixture is: a tiny model, its prompts, and everything one records of its forward passes."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
NEW_TOKENS = 16


@dataclass
class Prompt:
    """One chat, the images it shows (letters), and what the template is asked for."""

    messages: list
    images: list = field(default_factory=list)
    add_generation_prompt: bool = True


@dataclass
class Fixture:
    """One golden directory. A family adds a function that returns one of these."""

    note: str
    model_class: type
    config: object
    processor: object  # of a model without images, its tokenizer
    prompts: dict  # letter -> Prompt
    cases: dict  # case -> list of prompt letters, one per row
    write: Callable  # (fixture, model, directory): writes the checkpoint
    load: Callable  # (fixture, directory) -> (model, HF loading report): reads it back, for --verify
    decoder: str = "model.language_model"
    image_features: str = "model.multi_modal_projector"  # the module whose output is recorded, if the model has it
    disk_dtype: torch.dtype = torch.float32  # the weights are rounded to it before anything is recorded
    logit_gain: float = 3.0
    residual_gain: float = 1.0  # of o_proj and down_proj
    seed: int = 1  # where the search for clear greedy margins begins
    ablations: dict = field(default_factory=dict)  # name -> function that changes a config: must move the logits
    # What differs between families; the defaults serve most.
    sites: Callable = None  # model -> {(layer, projection): (module, slice of its output or None)}
    positions: Callable = None  # (model, inputs) -> position_ids or None, where the model is to count by itself
    value: Callable = None  # (name, parameter, noise) -> a parameter's values, or None for the usual ones
    nested_images: bool = False  # the processor takes a list of images per row
    encode_options: dict = field(default_factory=dict)  # further arguments of the processor
    image_options: dict = field(default_factory=dict)  # what the processor asks of its image processor
    min_distinct: int = 6  # distinct tokens in a generated row
    pictures: Callable = None  # () -> {letter: image}, instead of `images`
    render: Callable = None  # Prompt -> text, for families without a chat template
    new_token_type: int = 0  # of generated tokens, in token_type_ids
    generator: Callable = None  # model -> the module whose generation_config is used
    ablate_generated: bool = False  # ablations look at the prompt and the text generated from it
    record_layers: bool = True  # `single` with the outputs of every site and layer
    record_positions: bool = False  # the position ids of every case
    probes: dict = field(default_factory=dict)  # name -> (module, function of its output): more tensors of `single`
    stored: Callable = None  # (name, parameter) -> its values as the checkpoint will hold them, instead of `disk_dtype`
    reload: Callable = None  # directory -> (tokenizer, image processor or None) of a checkpoint that is not in HF's layout
    eager: dict = field(default_factory=lambda: dict(attn_implementation="eager"))  # how the model is to compute
    stepwise: bool = False  # cache or not, an earlier token may depend on later ones: check step by step

    def __post_init__(self):
        self.sites = self.sites or (lambda model: gated_mlps(model, self.decoder))
        self.positions = self.positions or (lambda _model, inputs: attended_positions(inputs["attention_mask"]))
        self.pictures = self.pictures or images
        self.generator = self.generator or (lambda model: model)

    @property
    def tokenizer(self):
        return getattr(self.processor, "tokenizer", self.processor)


CASES = {"single": ["a"], "batch_left": ["b", "c"], "batch_right": ["b", "c"], "text": ["d"], "two_images": ["e"]}
# Right padding is recorded for some fixtures only: the files stay small.
CASES_WITHOUT_RIGHT = {case: letters for case, letters in CASES.items() if case != "batch_right"}


def user(text, images=0):
    return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}


def assistant(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def system(text):
    return {"role": "system", "content": [{"type": "text", "text": text}]}


def standard_prompts():
    """a: single; b, c: the batch; d: text only; e: two images; f, g: only rendered and tokenised."""
    return {
        "a": Prompt([user("What is this?", 1)], ["a"]),
        "b": Prompt([user("So?", 1)], ["b"]),
        "c": Prompt([user("What is?", 1)], ["a"]),
        "d": Prompt([user("Caf\u00e9?")]),
        "e": Prompt([user("Both?", 2)], ["b", "a"]),
        "f": Prompt([user("A red boat on the sea.", 1)], ["a"], add_generation_prompt=False),
        "g": Prompt(
            [system("Be brief."), user("What is this?", 1), assistant("A boat."), user("Is it old?")], ["a"]
        ),
    }


def picture(width, height, seed):
    """A smooth gradient with a disc and a bar: small as PNG, different under mirroring."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    pixels = np.stack([255 * x / (width - 1), 255 * y / (height - 1), 127 + 120 * np.sin((x + 2 * y) / (9 + seed))], -1)
    pixels[(x - width * 0.3) ** 2 + (y - height * 0.6) ** 2 < (min(width, height) * 0.22) ** 2] = [220, 60, 40 * seed]
    pixels[:, int(width * 0.7) : int(width * 0.8)] = [20, 200, 90]
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8), "RGB")


def images():
    """Sizes differ from the towers', so resizing and cropping matter."""
    return {"a": picture(90, 70, 1), "b": picture(61, 113, 2)}


def randomise(fixture, model, seed, quiet):
    """Give every parameter a value that shows: norms around 1, no zero bias, unit gain in the matrices.

    The tokens in `quiet` are made unlikely (halves of characters, so that generated text can be read).
    """
    generator = torch.Generator().manual_seed(seed)
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        leaf = name.rsplit(".", 1)[-1]
        own = fixture.value(name, parameter, noise) if fixture.value else None
        if own is not None:
            value = own
        elif re.search(r"(norm|layrnorm|layer_norm\d)\.weight$", name):
            value = 1 + 0.2 * noise
        elif leaf == "bias":
            value = 0.2 * noise
        elif parameter is head:  # also the embedding, where the two are tied
            value = noise * fixture.logit_gain / parameter.shape[-1] ** 0.5
        elif parameter is embedding:
            value = 0.8 * noise
        elif leaf == "class_embedding" or "position_embedding" in name:
            value = 0.5 * noise
        elif re.search(r"[qk]_proj\.weight$", name):
            value = 1.3 * noise / parameter.shape[-1] ** 0.5
        elif re.search(r"(o|down)_proj\.weight$", name):
            value = fixture.residual_gain * noise / parameter.shape[-1] ** 0.5
        else:
            value = noise / parameter[0].numel() ** 0.5
        if parameter is head:
            value[[token for token in quiet if token < len(value)]] *= 0.1
        parameter.data.copy_(value)


def unreadable(tokenizer):
    """Tokens that are not text on their own: bytes of longer characters, control characters, special tokens."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=True)
    return [i for i, text in enumerate(texts) if not text.isprintable() or text in ("", "\ufffd")]


def make_alpha(width, generator):
    """Scales as AurA gives them (0 to 1, many exactly 1), plus exact zeros and two amplifying 1.4."""
    auroc = 0.2 + 0.8 * torch.rand(width, generator=generator)
    alpha = torch.where(auroc > 0.5, 1 - 2 * (auroc - 0.5), torch.ones(()))
    alpha[[1, width // 2]] = 0.0
    alpha[[2, width // 2 + 1]] = 1.4
    alpha[0] = 1.0
    return alpha


def gated_mlps(model, decoder):
    """(layer, projection) -> MLP linear, for every decoder layer."""
    layers = model.get_submodule(decoder).layers
    return {(i, p): (getattr(layer.mlp, p), None) for i, layer in enumerate(layers) for p in PROJECTIONS}


def width(site):
    """The number of neurons of a site."""
    module, part = site
    return len(range(module.out_features)[part or slice(None)])


class Hooks:
    """Forward hooks that are removed on exit."""

    def __init__(self):
        self.handles = []

    def scale(self, sites, alphas):
        for key, (module, part) in sites.items():
            self.handles.append(module.register_forward_hook(lambda _m, _i, out, a=alphas[key], p=part: scaled(out, a, p)))

    def record(self, modules, into):
        for key, module in modules.items():
            self.handles.append(module.register_forward_hook(lambda _m, _i, out, k=key: into.__setitem__(k, first(out))))

    def record_sites(self, sites, into):
        for key, (module, part) in sites.items():
            keep = lambda _m, _i, out, k=key, p=part: into.__setitem__(k, out[..., p or slice(None)].detach().clone())
            self.handles.append(module.register_forward_hook(keep))

    def probe(self, probes, into):
        for key, (module, of) in probes.items():
            keep = lambda _m, _i, out, k=key, f=of: into.__setitem__(k, f(out).detach().clone())
            self.handles.append(module.register_forward_hook(keep))

    def record_embeds(self, module, into):
        given = lambda kw: {k: v.clone() for k, v in kw.items() if k == "inputs_embeds" and v is not None}
        hook = lambda _m, _a, kw: into.update(given(kw))
        self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def first(out):
    out = getattr(out, "last_hidden_state", out)
    return (out[0] if isinstance(out, (tuple, list)) else out).detach().clone()


def scaled(out, alpha, part):
    if part is None:
        return out * alpha
    out = out.clone()
    out[..., part] *= alpha
    return out


def attended_positions(mask):
    """Position of every token, counted over attended tokens only."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def forward(fixture, model, inputs):
    positions = fixture.positions(model, inputs)
    more = {} if positions is None else {"position_ids": positions}
    return model(**inputs, **more, use_cache=False).logits


def pooled(out, mask):
    """Mean (accumulated in f64) and max over the attended tokens; NaN stands where an expert does not get a token, and 0 for no token."""
    keep = mask.bool().unsqueeze(-1) & ~out.isnan()
    count = keep.sum(1)
    mean = out.double().masked_fill(~keep, 0).sum(1) / count.clamp(min=1)
    return mean.float(), out.masked_fill(~keep, -torch.inf).max(1).values.where(count > 0, 0)


def greedy(fixture, model, inputs):
    """The 16 tokens HF generates with its cache, EOS ignored, and the smallest top-1 to top-2 gap."""
    config = fixture.generator(model).generation_config
    eos, config.eos_token_id = config.eos_token_id, None
    try:
        out = model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    finally:
        config.eos_token_id = eos
    top = torch.stack(out.logits, 1).topk(2, -1).values
    return out.sequences[:, -NEW_TOKENS:].clone(), float((top[..., 0] - top[..., 1]).min())


def recomputed(fixture, model, inputs, generated):
    """The same tokens by one forward pass without a cache: they must be the argmax at every step."""
    if fixture.stepwise:
        steps = [forward(fixture, model, extended(fixture, inputs, generated[:, :n]))[:, -1] for n in range(NEW_TOKENS)]
        return torch.stack(steps, 1).argmax(-1)
    return forward(fixture, model, extended(fixture, inputs, generated))[:, -NEW_TOKENS - 1 : -1].argmax(-1)


def extended(fixture, inputs, generated):
    """The inputs with generated tokens after them, in every tensor that has an entry for each token."""
    tokens, new = inputs["input_ids"].shape[1], generated.shape[1]
    out = dict(inputs)
    for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            fill = {"attention_mask": 1, "token_type_ids": fixture.new_token_type}.get(name, 0)
            out[name] = torch.cat([inputs[name], torch.full_like(generated, fill)], 1)
    if "cross_attention_mask" in inputs:
        last = inputs["cross_attention_mask"][:, -1:]
        out["cross_attention_mask"] = torch.cat([inputs["cross_attention_mask"], last.repeat_interleave(new, 1)], 1)
    out["input_ids"] = torch.cat([inputs["input_ids"], generated], 1)
    assert out["attention_mask"].shape[1] == tokens + new
    return out


def encode(fixture, letters, rendered, pictures, side="left"):
    """What the HF processor makes of some prompts: the tensors, and nothing else."""
    shown = [[pictures[i] for i in fixture.prompts[letter].images] for letter in letters]
    shown = shown if fixture.nested_images else [picture for row in shown for picture in row]
    images = {"images": shown} if any(fixture.prompts[letter].images for letter in letters) else {}
    fixture.tokenizer.padding_side = side
    text = [rendered[letter] for letter in letters]
    out = fixture.processor(text=text, padding=True, return_tensors="pt", **images, **fixture.encode_options)
    fixture.tokenizer.padding_side = "left"
    return {k: v for k, v in out.items() if isinstance(v, torch.Tensor) and k != "labels"}


class Unsuitable(Exception):
    """Some greedy step is too close to call, or the text repeats itself: try another seed."""


# Cases whose logits under scales are left out, for the size of the files; their tokens generated under scales are not.
UNSCALED = {"single", "batch_right", "two_images", "text"}


@torch.no_grad()
def record_case(fixture, model, case, inputs, alphas, min_margin):
    """All tensors of one case, and a report on how they behave."""
    modules = fixture.sites(model)
    mask, single, report, out = inputs["attention_mask"], case == "single", {}, dict(inputs)
    special = torch.tensor(sorted({*fixture.tokenizer.all_special_ids, *fixture.tokenizer.added_tokens_decoder}))
    if case != "batch_right":
        for name, scales in (("generated", None), ("generated_scaled", alphas)):
            with Hooks() as hooks:
                if scales:
                    hooks.scale(modules, scales)
                tokens, margin = greedy(fixture, model, inputs)
                if margin < min_margin or torch.isin(tokens, special).any():
                    raise Unsuitable
                if min(len(set(row)) for row in tokens.tolist()) < fixture.min_distinct:
                    raise Unsuitable
                same = torch.equal(recomputed(fixture, model, inputs, tokens), tokens)
                assert same, f"{case}: cached and recomputed tokens differ"
            out[name] = tokens
            report[f"{name}_margin"] = margin

    got, hidden, probes = {}, {}, {}
    decoder = model.get_submodule(fixture.decoder)
    with Hooks() as hooks:
        hooks.record_sites(modules, got)
        hooks.record(dict(enumerate(decoder.layers)), hidden)
        hooks.record_embeds(decoder, probes)
        if fixture.image_features and "pixel_values" in inputs:
            hooks.record({"image_features": model.get_submodule(fixture.image_features)}, probes)
        if single:
            hooks.probe({k: (model.get_submodule(m), of) for k, (m, of) in fixture.probes.items()}, probes)
        hooked = forward(fixture, model, inputs)
    out["logits"] = forward(fixture, model, inputs)
    assert gap(hooked, out["logits"]) < 1e-4, f"{case}: recording changes the logits"
    with Hooks() as hooks:
        hooks.scale(modules, alphas)
        scaled = forward(fixture, model, inputs)
    if case not in UNSCALED:
        out["logits_scaled"] = scaled
    for (layer, projection), value in got.items():
        name = f"layers.{layer}.{projection}"
        out[f"{name}.mean"], out[f"{name}.max"] = pooled(value, mask)
        if single and fixture.record_layers:
            out[f"{name}.out"] = value
    if single and fixture.record_layers:
        out |= {f"hidden.{i}": value for i, value in hidden.items()} | probes
    elif single:
        out |= {name: value for name, value in probes.items() if name in ("image_features", *fixture.probes)}
    if fixture.record_positions:
        out["position_ids"] = fixture.positions(model, inputs)
    attended = mask.bool()
    if any("0" in "".join(map(str, row)).strip("0") for row in mask.tolist()):  # padding within: numbering it would show
        out["position_ids"] = fixture.positions(model, inputs)
    folded = folded_logits(fixture, model, modules, inputs, alphas)
    report["folded_vs_hooked"] = gap(folded[attended], scaled[attended])
    report["scaled_vs_plain"] = gap(scaled[attended], out["logits"][attended])
    return {f"{case}.{name}": value.contiguous() for name, value in out.items()}, report


def folded_logits(fixture, model, modules, inputs, alphas):
    """The same scales in the weights: rows of W and entries of b."""
    saved = {name: p.clone() for name, p in model.named_parameters()}
    for key, (module, part) in modules.items():
        if hasattr(module, "scale_rows"):
            module.scale_rows(alphas[key])
            continue
        part = part or slice(None)
        module.weight[part] *= alphas[key][:, None]
        if module.bias is not None:
            module.bias[part] *= alphas[key]
    logits = forward(fixture, model, inputs)
    for name, parameter in model.named_parameters():
        parameter.copy_(saved[name])
    return logits


def gap(a, b):
    return float((a - b).abs().max())


@torch.no_grad()
def unused_parameters(fixture, model, inputs, logits):
    """Parameters that leave the logits alone when they are reset (norms to 1, biases to 0) or negated."""
    unused = []
    for name, parameter in model.named_parameters():
        saved = parameter.clone()
        if name.endswith(".bias"):
            parameter.zero_()
        elif re.search(r"norm\d?\.weight$", name):
            parameter.fill_(1.0)
        else:
            parameter.neg_()
        if gap(forward(fixture, model, inputs), logits) < 1e-3:
            unused.append(name)
        parameter.copy_(saved)
    return unused


@torch.no_grad()
def ablated(fixture, model, inputs, logits):
    """How far each setting of the config moves the logits when it is changed."""
    moved = {}
    for name, change in fixture.ablations.items():
        config = type(fixture.config).from_dict(fixture.config.to_dict())
        change(config)
        other = fixture.model_class._from_config(config, **fixture.eager).float().eval()
        other.load_state_dict(model.state_dict())
        moved[name] = gap(forward(fixture, other, inputs), logits)
        assert moved[name] > 1e-3, f"{name} does not show in the logits"
    return moved


def template_on_disk(directory):
    """The chat template from whichever of the three files has it."""
    if (directory / "chat_template.jinja").exists():
        return (directory / "chat_template.jinja").read_text()
    for file in ("chat_template.json", "tokenizer_config.json"):
        if (directory / file).exists() and "chat_template" in json.loads((directory / file).read_text()):
            return json.loads((directory / file).read_text())["chat_template"]
    raise FileNotFoundError(f"no chat template in {directory}")
